package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/bench"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/program"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/crowd"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

func (a *app) benchConnections() *cobra.Command {
	var o crowd.Options
	c := &cobra.Command{
		Use:   "connections [flags]",
		Short: "Hold thousands of WebSockets and event streams and measure what they cost",
		Long: `Hold thousands of WebSockets and event streams at a server of its own, which is another process, while
some of them generate and somebody else sends requests: memory for each, connections lost, and the
requests' times with and without the crowd. With --stalled, the times between the tokens of other
streams while so many listeners do not read what is published to them. With --slow, the requests' times
while so many clients send half a header or half a body, or read an answer, a byte a second, and come back
when they are cut off. The exit code is 1 if a connection is lost or a request fails.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			shared := chaosFlags{replicas: 1, clients: 1, timeout: time.Minute}
			return a.experiment(c, shared, func(b *chaos.Bench) (err error) {
				p, err := startServer(c.Context(), b.Spec)
				if err != nil {
					return err
				}
				defer closeInto(&err, func() error { return p.Stop(time.Minute) })
				s, err := p.Status(c.Context())
				if err != nil {
					return err
				}
				o.URL, o.Model, o.Say = p.URL, s.Model, b.Say
				o.Settle = func() error { return p.Collect(c.Context()) }
				o.Footprint = func() (int64, error) {
					f, err := program.FootprintOf(p.PID)
					return f.RSS, err
				}
				r, err := crowd.Run(c.Context(), o)
				if err != nil {
					return err
				}
				return errors.Join(a.printCrowd(r), r.Err())
			})
		},
	}
	f := c.Flags()
	f.IntVar(&o.Sockets, "sockets", 8000, "WebSockets")
	f.IntVar(&o.Streams, "streams", 2000, "streams of server-sent events")
	f.IntVar(&o.Stalled, "stalled", 1000, "listeners who do not read, measured for themselves")
	f.IntVar(&o.Slow, "slow", 5000, "clients that send or read a byte a second, measured for themselves")
	f.DurationVar(&o.Hold, "for", time.Minute, "`time` of each phase")
	f.Float64Var(&o.Requests, "requests", 10, "requests a second of somebody else")
	f.Float64Var(&o.Trickle, "trickle", 2, "generations a second over the WebSockets")
	modelFlags(c)
	return c
}

// startServer starts a server and waits until it is ready.
func startServer(ctx context.Context, spec program.Spec) (*program.Server, error) {
	p, err := spec.Start()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute) // a first start also imports the model
	defer cancel()
	if _, err := p.Ready(ctx); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

func (a *app) printCrowd(r crowd.Report) error {
	if a.output == "json" {
		return table.JSON(a.out, r)
	}
	m := bench.ThisMachine(version)
	fmt.Fprintf(a.out, "%s, %d cores, %s %s, %s, pimoe %s, %s\n\n", m.CPU, m.Cores, m.OS, m.Kernel, m.Go, m.Version, m.Time.Format(time.DateOnly))
	fmt.Fprintf(a.out, "%d WebSockets and %d event streams, opened in %.1f s and held for %.0f s: %d lost, %d heartbeats\n", r.Sockets, r.Streams, r.OpenSeconds, r.Seconds, r.Lost, r.Heartbeats)
	fmt.Fprintf(a.out, "resident memory of the server: %.1f KiB a WebSocket, %.1f KiB an event stream\n\n", float64(r.BytesPerSocket)/1024, float64(r.BytesPerStream)/1024)
	row := func(name string, q crowd.Quantiles) []string {
		return []string{name, fmt.Sprint(q.Count), fmt.Sprintf("%.1f", q.P50), fmt.Sprintf("%.1f", q.P99), fmt.Sprintf("%.1f", q.Max)}
	}
	rows := [][]string{
		row("others' requests without the crowd", r.Without.Requests), row("others' requests with it", r.With.Requests),
		row("generations over 8 WebSockets", r.Without.Trickle), row("generations over the crowd's", r.With.Trickle),
	}
	if r.Stalled > 0 {
		rows = append(rows, row("between tokens of 4 streams alone", r.GapsAlone), row(fmt.Sprintf("beside %d listeners who read", r.Stalled), r.GapsReading),
			row(fmt.Sprintf("beside %d who do not", r.Stalled), r.GapsStalled))
	}
	if r.Slow > 0 {
		rows = append(rows, row("others' requests without slow clients", r.SlowWithout.Requests), row(fmt.Sprintf("beside %d slow clients", r.Slow), r.SlowWith.Requests))
	}
	if err := table.Write(a.out, []string{"MILLISECONDS", "COUNT", "P50", "P99", "MAX"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "\np99 of others' requests with the crowd to without: %.2f\n", r.Ratio)
	if r.Stalled > 0 {
		fmt.Fprintf(a.out, "p99 between tokens, stalled to reading: %.2f, to alone: %.2f; %d of %d cut off, %.1f KiB of memory each at most\n",
			r.StalledRatio, r.StalledToAlone, r.StalledCut, r.Stalled, float64(r.StalledBytes)/1024)
	}
	if r.Slow > 0 {
		fmt.Fprintf(a.out, "p99 of others' requests beside slow clients to without: %.2f; %d cut off, %.1f MiB of memory at most\n", r.SlowRatio, r.SlowCut, float64(r.SlowBytes)/(1<<20))
	}
	return nil
}
