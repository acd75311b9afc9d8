// Package schedule draws faults from a seed: which kind, when, and a number that decides everything else about it. The same
// seed gives the same faults on every machine, and a kind's faults do not depend on the rates of the others, so that a
// failure is found again and narrowed down.
//
// The command chaos uses it. It refuses to know processes: who is hit is decided when a fault fires, by its Draw among those
// that live then.
package schedule

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Kind is what is done to a process.
type Kind string

// The kinds of faults.
const (
	Kill    Kind = "kill"    // SIGKILL an expert process
	Stop    Kind = "stop"    // SIGSTOP an expert process for good
	Slow    Kind = "slow"    // stop an expert process for milliseconds, again and again
	Corrupt Kind = "corrupt" // write what is no number, or a false header, over an expert process's answers
	OOM     Kind = "oom"     // kill an expert process and refuse memory to its successor while it starts
	Router  Kind = "router"  // SIGKILL the router process
)

// Kinds are all kinds, in the order of reports.
func Kinds() []Kind { return []Kind{Kill, Stop, Slow, Corrupt, OOM, Router} }

// Fault is one fault of a schedule.
type Fault struct {
	At   time.Duration `json:"at"` // since the begin of the schedule
	Kind Kind          `json:"kind"`
	Draw uint64        `json:"draw"` // decides the process that is hit, and the variant of the fault
}

// Rates are faults a second. A kind that is missing does not happen.
type Rates map[Kind]float64

// most faults of one schedule: a day at twelve a second.
const most = 1 << 20

// Plan draws the faults of a time, each kind as a Poisson process of its rate: the moment of a fault says nothing about
// that of the next one.
func Plan(seed uint64, rates Rates, length time.Duration) ([]Fault, error) {
	expected := 0.0
	for kind, rate := range rates {
		if !slices.Contains(Kinds(), kind) {
			return nil, fmt.Errorf("fault %q: want one of %v: %w", kind, Kinds(), sdk.ErrInvalid)
		}
		if !(rate >= 0 && rate <= 1000) { // also refuses NaN
			return nil, fmt.Errorf("%g %s faults a second: want 0 to 1000: %w", rate, kind, sdk.ErrInvalid)
		}
		expected += rate * length.Seconds()
	}
	if expected > most {
		return nil, fmt.Errorf("about %.0f faults: want at most %d: %w", expected, most, sdk.ErrInvalid)
	}
	var all []Fault
	for i, kind := range Kinds() {
		rate, rng := rates[kind], source(seed, uint64(i))
		if rate == 0 {
			continue
		}
		for at := wait(rng, rate); at < length; at += wait(rng, rate) {
			all = append(all, Fault{At: at, Kind: kind, Draw: rng.Uint64()})
		}
	}
	slices.SortStableFunc(all, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return all, nil
}

// wait is the time to the next fault of a rate.
func wait(rng *rand.Rand, rate float64) time.Duration {
	return time.Duration(rng.ExpFloat64() / rate * float64(time.Second))
}

// closest is how far apart two faults of a pair begin at most: within the time that a restart takes.
const closest = 100 * time.Millisecond

// Pair draws two faults at almost the same time, of the kinds given.
func Pair(seed uint64, kinds []Kind) [2]Fault {
	rng := source(seed, pairStream)
	var pair [2]Fault
	for i := range pair {
		pair[i] = Fault{Kind: kinds[rng.IntN(len(kinds))], Draw: rng.Uint64()}
	}
	pair[1].At = time.Duration(rng.Int64N(int64(closest)))
	return pair
}

// pairStream keeps pairs apart from the streams of single kinds, which are numbered from 0.
const pairStream = 1 << 32

func source(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }
