// Package cache keeps answers that would be the same if they were computed again: in memory, bounded by bytes, and where
// the operator says so in a Redis that several hosts share. Equal requests at one time are computed once. What is kept
// belongs to one tenant and one version of all that computes, by its key, and says so itself.
//
// server makes keys and decides which answers may be kept. The package refuses to trust Redis: a record is sealed with a
// key that is not there and bound to its own key and tenant, and whatever does not open, is too old or belongs elsewhere
// is a miss. It refuses to let anybody wait for Redis longer than redisdb does, and to fail a request: the worst it does
// is to compute.
package cache
