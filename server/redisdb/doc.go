// Package redisdb is the one client of the Redis that several hosts share: a fixed address with TLS that is verified, a
// bounded pool, and a deadline on every call that a request waits for. A breaker keeps calls from a server that is dead,
// frozen or slow: after a few tries they cost nothing until a probe in the background finds it back. What a request loses
// by that is a cache or a shared count, never its answer.
//
// server/cache and whoever shares a state between hosts use it; server opens and closes it. The package refuses commands
// that are put together from text: keys and values are parameters, scripts are constants of the program. It refuses
// replies larger than it asks for, and to trust what Redis says: whoever reads a value proves it.
package redisdb
