package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/ledger"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/load"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/nemesis"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/program"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/schedule"
)

// settleWithin is how long the processes may need to be complete after the last fault. A process that could not start some
// times in a row is tried again after a minute.
const settleWithin = 90 * time.Second

// Faults says what happens to the processes of a server: a schedule, or pairs of faults one after the other.
type Faults struct {
	Rates schedule.Rates
	For   time.Duration
	Calm  time.Duration // of the same load without faults, before
	Pairs int           // instead of a schedule; pair i has the seed Bench.Seed + i
}

// Report is the outcome of Run.
type Report struct {
	Injected   map[schedule.Kind]int `json:"injected"` // fired
	Detected   map[schedule.Kind]int `json:"detected"` // of them, those that the server answered with a new process
	Missed     map[schedule.Kind]int `json:"missed"`   // planned and not fired: nobody could be hit
	Requests   int                   `json:"requests"`
	Failed     int                   `json:"failed"`
	Wrong      int                   `json:"wrong"`
	Lost       int                   `json:"lost"`
	FailoverMS Quantiles             `json:"failover_ms"` // of each fault, see pauses
	CalmMS     Quantiles             `json:"calm_ms"`     // the same of moments at which no fault was felt
	DetectedMS Quantiles             `json:"detected_ms"` // from a fault to the server's notice
	RecoveryMS Quantiles             `json:"recovery_ms"` // from a fault to its group being complete
	// Unexplained are deaths that no fault explains, Unsettled faults after which the processes were not complete in time.
	Unexplained int            `json:"unexplained_deaths"`
	Unsettled   int            `json:"unsettled"`
	Causes      map[string]int `json:"causes"` // in the server's words
	Seed        uint64         `json:"seed"`
	Pairs       int            `json:"pairs,omitempty"`
	BadSeeds    []uint64       `json:"bad_seeds,omitempty"` // of pairs during which something went wrong
	Replicas    int            `json:"replicas"`
	Clients     int            `json:"clients"`
	Class       string         `json:"numeric_class"`
	Seconds     float64        `json:"seconds"` // of load
	Examples    []string       `json:"examples,omitempty"`
	Worst       []Stall        `json:"worst"`         // the longest gaps, of one moment one
	Dir         string         `json:"dir,omitempty"` // where ledger, oracle and events are, if they were kept
}

// Err is nil if the run kept every promise.
func (r Report) Err() error {
	err := faultless(ledger.Verdict{Requests: r.Requests, Failed: r.Failed, Wrong: r.Wrong, Lost: r.Lost}, r.Replicas)
	if r.Unsettled > 0 {
		err = errors.Join(err, fmt.Errorf("after %d faults the processes were not complete within %v: %w", r.Unsettled, settleWithin, sdk.ErrDeadline))
	}
	return err
}

// Run asks the oracle, loads a server, makes the faults and reports. An error means that there is no report; whether the
// report is good, it says itself.
func (b *Bench) Run(ctx context.Context, f Faults) (r Report, err error) {
	plan, err := schedule.Plan(b.Seed, f.Rates, f.For)
	if err != nil {
		return r, err
	}
	qs := load.Questions(b.Seed, questions)
	b.Say("ask the oracle %d questions", len(qs))
	class, err := b.oracle(ctx, qs)
	if err != nil {
		return r, err
	}
	server, err := b.serve(ctx, fmt.Sprintf("experts.replicas=%d", b.Replicas))
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			server.Kill()
		}
	}()
	status, err := server.Status(ctx)
	if err != nil {
		return r, err
	}
	if status.Class != class {
		return r, fmt.Errorf("the server computes in class %s, the oracle in %s: %w", status.Class, class, sdk.ErrInvalid)
	}
	outcomes, paces, restarts, seconds, err := b.hurt(ctx, server, status.Model, f, plan)
	if err != nil {
		return r, err
	}
	if err := server.Stop(stopWithin); err != nil {
		return r, err
	}
	if left := server.Members(); len(left) > 0 {
		return r, fmt.Errorf("processes %v are left after the server: %w", left, sdk.ErrInvalidOutput)
	}
	v, err := b.judge(ctx)
	if err != nil {
		return r, err
	}
	r = summary(outcomes, paces, restarts)
	r.Requests, r.Failed, r.Wrong, r.Lost, r.Examples = v.Requests, v.Failed, v.Wrong, v.Lost, v.Examples
	r.Worst = worst(paces, outcomes)
	r.Seed, r.Replicas, r.Clients, r.Class, r.Seconds, r.Pairs = b.Seed, b.Replicas, b.Clients, class, round(seconds), f.Pairs
	for _, era := range v.Eras {
		if era > 0 {
			r.BadSeeds = append(r.BadSeeds, b.Seed+era-1)
		}
	}
	return r, b.events(outcomes)
}

// hurt loads the server while faults happen to it.
func (b *Bench) hurt(ctx context.Context, server *program.Server, model string, f Faults, plan []schedule.Fault) (outcomes []nemesis.Outcome, paces []load.Pace, restarts uint64, seconds float64, err error) {
	book, err := b.openBook()
	if err != nil {
		return nil, nil, 0, 0, err
	}
	defer func() { err = errors.Join(err, book.close()) }()
	n, err := nemesis.Begin(ctx, server)
	if err != nil {
		return nil, nil, 0, 0, err
	}
	before := n.Restarts()
	client := b.client(server, model)
	defer client.HTTP.CloseIdleConnections()
	began := time.Now()
	l := load.Begin(ctx, client, load.Questions(b.Seed, questions), b.Clients, b.Seed, b.Timeout, book.pen)
	pause(ctx, f.Calm)
	if f.Pairs > 0 {
		b.pairs(ctx, n, l, f.Pairs)
	} else {
		b.Say("%d faults in %v", len(plan), f.For)
		n.Run(ctx, plan, 0)
		pause(ctx, f.For-last(plan))
	}
	n.Settle(ctx, settleWithin)
	paces = l.End()
	seconds = time.Since(began).Seconds()
	outcomes, err = n.End()
	return outcomes, paces, n.Restarts() - before, seconds, errors.Join(err, ctx.Err())
}

func last(plan []schedule.Fault) time.Duration {
	if len(plan) == 0 {
		return 0
	}
	return plan[len(plan)-1].At
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// betweenPairs lets what a pair has done reach the requests that were under way, so that it is not the next one's.
const betweenPairs = 100 * time.Millisecond

// pairs makes pair after pair, each when the processes are complete again.
func (b *Bench) pairs(ctx context.Context, n *nemesis.Nemesis, l *load.Load, count int) {
	b.Say("%d pairs of faults, seeds %d to %d", count, b.Seed, b.Seed+uint64(count)-1)
	for i := range uint64(count) {
		era := i + 1
		l.Era(era)
		pair := schedule.Pair(b.Seed+i, schedule.Kinds())
		n.Run(ctx, pair[:], era)
		if !n.Settle(ctx, settleWithin) {
			return
		}
		pause(ctx, betweenPairs)
	}
}

// summary counts outcomes and streams.
func summary(outcomes []nemesis.Outcome, paces []load.Pace, restarts uint64) Report {
	r := Report{Injected: map[schedule.Kind]int{}, Detected: map[schedule.Kind]int{}, Missed: map[schedule.Kind]int{}, Causes: map[string]int{}}
	var moments []time.Time
	var detected, recovered []float64
	replaced := 0
	for _, o := range outcomes {
		if o.Fired.IsZero() {
			r.Missed[o.Kind]++
			continue
		}
		r.Injected[o.Kind]++
		moments = append(moments, o.Fired)
		if o.Recovered < 0 {
			if !o.Survived {
				r.Unsettled++
			}
			continue
		}
		replaced++
		r.Detected[o.Kind]++
		r.Causes[o.Cause]++
		detected, recovered = append(detected, o.Detected), append(recovered, o.Recovered)
	}
	r.Unexplained = int(restarts) - replaced
	r.FailoverMS, r.CalmMS = quantiles(pauses(moments, paces)), quantiles(pauses(calm(outcomes, paces), paces))
	r.DetectedMS, r.RecoveryMS = quantiles(detected), quantiles(recovered)
	return r
}

// events writes what was planned and what happened, in the order of time.
func (b *Bench) events(outcomes []nemesis.Outcome) error {
	slices.SortStableFunc(outcomes, func(x, y nemesis.Outcome) int { return cmp.Compare(x.Fired.UnixNano(), y.Fired.UnixNano()) })
	f, err := os.OpenFile(b.path("events"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	pen := ledger.NewPen(f)
	for _, o := range outcomes {
		pen.Write(o)
	}
	return errors.Join(pen.Err(), f.Close())
}
