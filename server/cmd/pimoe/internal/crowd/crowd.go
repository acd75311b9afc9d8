// Package crowd holds thousands of WebSockets and event streams open at a server that is another process, and measures
// what they cost: memory for each, connections that are lost, and how long everybody else waits meanwhile. Part of the
// crowd can stop reading.
//
// The command bench connections uses it. It refuses to judge: the report has figures with and without the crowd.
package crowd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"gonum.org/v1/gonum/stat"

	"github.com/pimoe/pimoe/sdk"
)

// Options say how large the crowd is and what happens meanwhile.
type Options struct {
	URL       string // of the server
	Model     string
	Sockets   int                   // WebSockets that are held
	Streams   int                   // streams of server-sent events that are held
	Stalled   int                   // WebSockets that do not read, in a measurement of their own; 0 = none
	Slow      int                   // clients that send or read a byte a second, in a measurement of their own; 0 = none
	Hold      time.Duration         // for which everything is held, and measured without the crowd before
	Requests  float64               // a second, one after the other as far as they are fast enough: those who are not of the crowd
	Trickle   float64               // generations a second, each over one of the WebSockets
	Footprint func() (int64, error) // resident memory of the server, bytes
	Settle    func() error          // has the server collect its garbage
	Say       func(format string, args ...any)
}

// Quantiles of times in milliseconds.
type Quantiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func quantiles(times []time.Duration) Quantiles {
	if len(times) == 0 {
		return Quantiles{}
	}
	ms := make([]float64, len(times))
	for i, d := range times {
		ms[i] = float64(d) / float64(time.Millisecond)
	}
	slices.Sort(ms)
	q := func(p float64) float64 { return round(stat.Quantile(p, stat.Empirical, ms, nil)) }
	return Quantiles{len(ms), q(.5), q(.99), round(ms[len(ms)-1])}
}

func round(x float64) float64 { return math.Round(x*100) / 100 }

// Phase is what others saw in one phase.
type Phase struct {
	Requests Quantiles `json:"requests"` // whole answers over HTTP
	Failed   int       `json:"failed"`   // of them
	Trickle  Quantiles `json:"trickle"`  // whole answers over WebSockets of the crowd
	Broken   int       `json:"broken"`   // of them
}

// Report is what was found.
type Report struct {
	Sockets        int       `json:"sockets"`
	Streams        int       `json:"streams"`
	Seconds        float64   `json:"seconds"`
	OpenSeconds    float64   `json:"open_seconds"`     // that opening all took
	Lost           int       `json:"lost"`             // connections that ended, or that heard nothing all the time
	Heartbeats     int       `json:"heartbeats"`       // pings and comments that came
	BytesPerSocket int64     `json:"bytes_per_socket"` // of the server's resident memory
	BytesPerStream int64     `json:"bytes_per_stream"`
	Without        Phase     `json:"without"`
	With           Phase     `json:"with"`
	Ratio          float64   `json:"ratio"` // of the requests' p99
	Stalled        int       `json:"stalled"`
	StalledCut     int       `json:"stalled_cut"`   // of them that the server has ended
	StalledBytes   int64     `json:"stalled_bytes"` // most resident memory more than before, for each
	GapsReading    Quantiles `json:"gaps_reading"`  // between tokens of other streams while the same clients read
	GapsStalled    Quantiles `json:"gaps_stalled"`  // while they do not
	GapsAlone      Quantiles `json:"gaps_alone"`    // without them
	StalledRatio   float64   `json:"stalled_ratio"` // stalled to reading, p99
	StalledToAlone float64   `json:"stalled_to_alone"`
	Slow           int       `json:"slow"`
	SlowCut        int       `json:"slow_cut"`   // their connections that the server has ended; each comes back at once
	SlowBytes      int64     `json:"slow_bytes"` // most resident memory more than before, for all of them
	SlowWithout    Phase     `json:"slow_without"`
	SlowWith       Phase     `json:"slow_with"`
	SlowRatio      float64   `json:"slow_ratio"` // of the requests' p99
}

// Err is not nil if a connection was lost or somebody's request failed.
func (r Report) Err() error {
	failed, broken := r.Without.Failed+r.With.Failed+r.SlowWithout.Failed+r.SlowWith.Failed, r.Without.Broken+r.With.Broken
	if r.Lost+failed+broken > 0 {
		return fmt.Errorf("%d connections lost, %d requests and %d generations failed: %w", r.Lost, failed, broken, sdk.ErrInvalidOutput)
	}
	return nil
}

// few are the WebSockets over which the trickle runs while there is no crowd.
const few = 8

// Run measures without the crowd, then with it, then what stalled readers do, then slow clients.
func Run(ctx context.Context, o Options) (r Report, err error) {
	if o.Sockets < few || o.Streams < 0 || o.Stalled < 0 || o.Slow < 0 || o.Hold <= 0 || o.Requests <= 0 || o.Trickle <= 0 {
		return r, fmt.Errorf("want at least %d sockets, and time and rates above zero: %w", few, sdk.ErrInvalid)
	}
	h := newHolder(o)
	defer h.close()
	r.Sockets, r.Streams, r.Stalled, r.Slow, r.Seconds = o.Sockets, o.Streams, o.Stalled, o.Slow, o.Hold.Seconds()
	if err := h.sockets(ctx, few); err != nil {
		return r, err
	}
	o.Say("%v without the crowd", o.Hold)
	r.Without = h.phase(ctx)
	if err := h.grow(ctx, &r); err != nil {
		return r, err
	}
	o.Say("holding %d WebSockets and %d event streams for %v", o.Sockets, o.Streams, o.Hold)
	h.reset()
	r.With = h.phase(ctx)
	r.Lost, r.Heartbeats = h.lost(o.Hold)
	if r.Without.Requests.P99 > 0 {
		r.Ratio = round(r.With.Requests.P99 / r.Without.Requests.P99)
	}
	h.close()
	if o.Stalled > 0 {
		err = o.stall(ctx, &r)
	}
	if o.Slow > 0 && err == nil {
		err = o.slow(ctx, &r)
	}
	return r, errors.Join(err, ctx.Err())
}

// grow opens the crowd and weighs it.
func (h *holder) grow(ctx context.Context, r *Report) error {
	began := time.Now()
	before, err := h.settled()
	if err != nil {
		return err
	}
	if err := h.sockets(ctx, h.Sockets-few); err != nil {
		return err
	}
	between, err := h.settled()
	if err != nil {
		return err
	}
	if err := h.streams(ctx, h.Streams); err != nil {
		return err
	}
	after, err := h.settled()
	if err != nil {
		return err
	}
	r.OpenSeconds = round(time.Since(began).Seconds())
	r.BytesPerSocket = (between - before) / int64(max(h.Sockets-few, 1))
	if h.Streams > 0 {
		r.BytesPerStream = (after - between) / int64(h.Streams)
	}
	return nil
}

// settled is the server's memory without garbage.
func (o Options) settled() (int64, error) {
	if err := o.Settle(); err != nil {
		return 0, err
	}
	return o.Footprint()
}

// phase sends requests and the trickle for the time of the hold.
func (h *holder) phase(ctx context.Context) (p Phase) {
	ctx, cancel := context.WithTimeout(ctx, h.Hold)
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() { p.Requests, p.Failed = at(ctx, h.Requests, h.request) })
	both.Go(func() { p.Trickle, p.Broken = at(ctx, h.Trickle, h.generate) })
	both.Wait()
	return p
}

// at calls do at a rate until the context ends, waits for the last call and measures each from when it was due.
func at(ctx context.Context, rate float64, do func() error) (q Quantiles, failed int) {
	var mu sync.Mutex // guards times and failed
	var times []time.Duration
	var calls sync.WaitGroup
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			calls.Go(func() {
				began := time.Now()
				err := do()
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
					return
				}
				times = append(times, time.Since(began))
			})
		}
	}
	calls.Wait()
	return quantiles(times), failed
}
