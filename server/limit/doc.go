// Package limit bounds what principals and tenants may ask for: requests and tokens a minute, and requests at the same
// time. A Limiter decides by the first rule that fits, before a request's body is parsed; tokens are reserved by an estimate
// and settled when the real number is known.
//
// server asks it for every request that runs the model, and tells its client what is left. The buckets are this process's own,
// and also a Shared store's where several hosts have one: such a store can make a decision stricter, never looser, so
// that a store that is slow, dead or lying costs at most one bucket for each host. The package refuses to know HTTP,
// to read a clock of its own, and to remember more than a fixed number of buckets.
package limit
