package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

func (a *app) chaosHost() *cobra.Command {
	var shared chaosFlags
	var times int
	c := &cobra.Command{
		Use:   "host [flags]",
		Short: "Kill the server itself at random moments and look for what it leaves",
		Long: `Kill the server itself with SIGKILL at random moments: a third of them during its start, a third while
it answers, and a third in a reload that gives all its groups new processes. Reported are the
times until the last of its processes has ended and until the next start is ready, and what is
left then: processes, sockets, folders, shared memory. The exit code is 1 if anything is left.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if times < 1 {
				return usageError{errors.New("chaos host: want --times of at least 1")}
			}
			return a.experiment(c, shared, func(b *chaos.Bench) error {
				cfg, err := a.load(c, quiet)
				if err != nil {
					return err
				}
				r, err := b.Hosts(c.Context(), times, cfg.Home)
				if err != nil {
					return err
				}
				if shared.keep != "" || r.Err() != nil {
					r.Dir = b.Dir
				}
				return errors.Join(a.printHost(r), r.Err())
			})
		},
	}
	c.Flags().IntVar(&times, "times", 20, "kills")
	shared.add(c)
	return c
}

func (a *app) printHost(r chaos.HostReport) error {
	if a.output == "json" {
		return table.JSON(a.out, r)
	}
	fmt.Fprintf(a.out, "%d kills with seed %d, %d replicas: %d during the start, %d under load, %d in a reload\n", r.Kills, r.Seed, r.Replicas, r.InStart, r.UnderLoad, r.InReload)
	fmt.Fprintf(a.out, "left: %d processes, %d sockets, %d folders, %d memfds\n", r.Processes, r.Sockets, r.Folders, r.Memfds)
	fmt.Fprintf(a.out, "%d times a process outlived the server by 100 ms, %d starts took more than 2 s\n\n", r.Late, r.SlowStarts)
	return table.Write(a.out, []string{"MILLISECONDS", "COUNT", "P50", "P99", "MAX"}, [][]string{
		chaosRow("kill to the last process", r.GoneMS), chaosRow("next start to ready", r.StartMS),
	})
}

func (a *app) chaosSoak() *cobra.Command {
	var shared chaosFlags
	var requests, restarts, tokens int
	c := &cobra.Command{
		Use:   "soak [flags]",
		Short: "Make many requests and restarts and look for what grows",
		Long: `Make many requests and restarts and look for what grows. Memory, goroutines, descriptors and mapped
files are sampled, and compared at rest before and after. The exit code is 1 if anything that can be
counted has grown, or if an answer was bad.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if requests < 1 || restarts < 0 || tokens < 0 {
				return usageError{errors.New("chaos soak: want --requests of at least 1, --restarts and --tokens not below 0")}
			}
			return a.experiment(c, shared, func(b *chaos.Bench) error {
				r, err := b.Soak(c.Context(), requests, restarts, tokens)
				if err != nil {
					return err
				}
				if shared.keep != "" || r.Err() != nil {
					r.Dir = b.Dir
				}
				return errors.Join(a.printSoak(r), r.Err())
			})
		},
	}
	c.Flags().IntVar(&requests, "requests", 1000, "requests")
	c.Flags().IntVar(&restarts, "restarts", 50, "processes that are killed meanwhile")
	c.Flags().IntVar(&tokens, "tokens", 0, "most tokens of an answer, with prompts of one sentence, so that there are more requests; 0 = up to 64, as in the other experiments")
	shared.add(c)
	return c
}

func (a *app) printSoak(r chaos.SoakReport) error {
	if a.output == "json" {
		return table.JSON(a.out, r)
	}
	fmt.Fprintf(a.out, "%d requests in %.0f s with seed %d: %d failed, %d wrong, %d lost; %d restarts\n", r.Requests, r.Seconds, r.Seed, r.Failed, r.Wrong, r.Lost, r.Restarts)
	fmt.Fprintf(a.out, "memory of the host %+.2f MiB an hour, %+.1f bytes a request; of an expert %+.2f MiB an hour\n\n", r.HostMiBPerHour, r.HostBytesPerRequest, r.ExpertMiBPerHour)
	row := func(name string, s chaos.Sample) []string {
		return []string{name, progress.Size(s.HostRSS), progress.Size(s.ExpertRSS), fmt.Sprint(s.Goroutines), fmt.Sprint(s.Descriptors), fmt.Sprint(s.Mappings), fmt.Sprint(s.Processes)}
	}
	err := table.Write(a.out, []string{"AT REST", "HOST RSS", "EXPERT RSS", "GOROUTINES", "DESCRIPTORS", "MAPPINGS", "PROCESSES"},
		[][]string{row("before", r.Before), row("after", r.After)})
	for _, e := range r.Examples {
		fmt.Fprintln(a.out, e)
	}
	return err
}
