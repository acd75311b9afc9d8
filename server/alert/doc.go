// Package alert says what is wrong with a host: rules over its metrics, each with a threshold to fire at, another one to
// resolve at, a time for which it must hold and a severity. The same rules become a rule file for Prometheus, and mean the
// same there: expressions are a subset of PromQL, and tests compare the two over generated series.
//
// server/alert/lookout evaluates them in the host, server/deploy/monitoring and `pimoe alerts rules` print them. The package
// is values and functions of values: it refuses to own a clock, a goroutine or a connection, and to tell anybody.
package alert
