// Package cost says what requests have cost and what the machine should have: CPU time, bytes of weights that were read and,
// where the processor's counters can be read, energy, by tenant, by part (the host, the router, each expert group) and by expert; and what
// the measured load asks for in processes, replicas and memory.
//
// The rule. Time is cut into looks, ten a second while something is computed. What each part has used between two looks is
// shared by the rows (tokens that were computed: of prompts without those out of the cache, and of answers) of the steps that
// ended in between, tenant by tenant. While a step is under way and none has ended, what is used waits for its end. What is used
// while nothing is computed belongs to nobody: it is the tenant "(idle)". Shares are whole nanoseconds, bytes and microjoules, and
// none is lost by rounding: the sum over all tenants is what was measured, exactly. CPU time is what the kernel has counted for
// each process, the bytes are those of a unit's weights for each call that has rows for it, and of the trunk for each step.
// What a group has used is shared once more, by its units (units.go), whose sum is again exactly the group's.
// Energy is the machine's: of it, the processes here get the share that they have of the machine's busy time.
//
// server/instance has one Ledger, server reports it, pimoe report shows it. The package refuses to estimate what it can't
// measure: such figures are absent, with the reason.
package cost
