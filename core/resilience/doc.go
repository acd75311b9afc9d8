// Package resilience decides how the replicas of an expert group are used: which of them gets a call, when a call is
// repeated or hedged on another one, which replica is left out for a while and which for good. It holds the circuit
// breaker, the budgets of retries and hedges, the outlier ejection and the quarantine of FAULTS 5.2 and 5.3.
//
// core/host owns one Set for each group and tells it what happens; a simulation of the whole lives beside it. Everything
// here is a deterministic state machine: time and randomness are arguments, and nothing waits, starts a goroutine or takes
// a lock. The package refuses to know about processes, calls and tensors.
package resilience
