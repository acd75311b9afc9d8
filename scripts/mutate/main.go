// Command mutate measures what the tests notice: it makes small bugs, one at a time, in the code that decides what happens
// when something breaks, and runs the tests of that code over each of them. A bug that no test sees is named, with its place.
//
// `make mutants` runs it from the root of the tree. A bug is made with go test's -overlay, so that no file is ever changed. It
// refuses to judge by one test run alone what the tests of a neighbour could see: the packages of a target are asked in order,
// until one fails.
//
// Exit codes: 0 enough are caught and every survivor is on the accepted list; 1 not so; 2 it could not run.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// target is code under test: files, of which only some functions are meant if any are named, and the tests that must notice.
type target struct {
	files []string
	only  []string // functions; empty = all
	tests [][]string

	limits []time.Duration // of the tests
}

// Tests that start processes take long and know little of this code, so those that simulate it come first.
var targets = []target{
	{
		files: []string{"core/resilience/breaker.go", "core/resilience/budget.go", "core/resilience/latency.go", "core/resilience/set.go"},
		tests: [][]string{{"./core/resilience"}, {"-run", "Simulation|Machines", "./core/host"}},
	},
	{
		files: []string{"core/scaling/scaler.go", "core/scaling/regroup.go"},
		tests: [][]string{{"./core/scaling"}},
	},
	{
		files: []string{"core/host/supervisor.go", "core/host/group.go", "core/host/call.go", "core/host/recheck.go", "core/host/backoff.go", "core/host/pulse.go"},
		tests: [][]string{{"./core/host"}},
	},
	{
		files: []string{"sdk/internal/plane/host_linux.go"},
		only:  []string{"TryPost", "Post", "take", "reclaim", "signal", "post", "Wake", "Wait", "Settled", "Leave", "arrive", "release", "leave", "Abort"},
		tests: [][]string{{"./sdk/internal/plane"}},
	},
	{files: []string{"core/moe/layer.go", "core/moe/plan.go"}, tests: [][]string{{"./core/moe"}}},
}

func main() {
	count := flag.Int("n", 0, "how many mutants, chosen by the seed; 0 = all")
	seed := flag.Uint64("seed", 1, "of the choice")
	jobs := flag.Int("jobs", 2, "test runs at once")
	patience := flag.Float64("patience", 4, "times as long as without a bug the tests of a mutant may take; who takes longer is caught")
	least := flag.Float64("least", 95, "percent that must be caught")
	accepted := flag.String("accepted", "", "file of survivors that are accepted, with a reason each")
	only := flag.String("only", "", "mutants whose name contains this")
	again := flag.String("again", "", "output of an earlier run: only its survivors")
	list := flag.Bool("list", false, "print the mutants and run nothing")
	flag.Parse()
	c := choice{count: *count, seed: *seed, only: *only, again: *again}
	if err := run(c, *jobs, *patience, *least, *accepted, *list); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		if errors.Is(err, errSurvivors) {
			os.Exit(1)
		}
		os.Exit(2)
	}
}

var errSurvivors = errors.New("the tests miss too much")

func run(c choice, jobs int, patience, least float64, accepted string, list bool) error {
	reasons, err := readAccepted(accepted)
	if err != nil {
		return err
	}
	every, err := allMutants()
	if err != nil {
		return err
	}
	if err := stale(reasons, every); err != nil {
		return err
	}
	all, err := c.of(every)
	if err != nil {
		return err
	}
	if list {
		for _, m := range all {
			fmt.Println(m.name())
		}
		return nil
	}
	if err := measure(all, jobs, patience); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	return report(judge(all, work, jobs), reasons, least)
}

// choice says which of all mutants are made.
type choice struct {
	count int // 0 = all; else so many, chosen by the seed
	seed  uint64
	only  string // part of the name
	again string // output of an earlier run, whose survivors they are; empty = any
}

// allMutants are those of all targets.
func allMutants() (all []mutant, err error) {
	for i := range targets {
		found, err := targets[i].mutants()
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// stale is an error if an accepted survivor is none any more, since its line has changed.
func stale(reasons map[string]string, all []mutant) error {
	left := maps.Clone(reasons)
	for _, m := range all {
		delete(left, m.name())
	}
	if names := slices.Sorted(maps.Keys(left)); len(names) > 0 {
		return fmt.Errorf("accepted survivor %q: no such mutant: take its line from the list", names[0])
	}
	return nil
}

func (c choice) of(all []mutant) ([]mutant, error) {
	all = slices.DeleteFunc(all, func(m mutant) bool { return !strings.Contains(m.name(), c.only) })
	if c.again != "" {
		survived, err := survivors(c.again)
		if err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(m mutant) bool { return !survived[m.name()] })
	}
	if c.count > 0 && c.count < len(all) {
		rng := rand.New(rand.NewPCG(c.seed, 0))
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:c.count]
	}
	return all, nil
}

// survivors are the names that an earlier run printed as such, with the seconds between the word and the name.
func survivors(path string) (map[string]bool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "survived "); ok {
			if _, name, ok := strings.Cut(rest, " s  "); ok {
				names[strings.TrimSpace(name)] = true
			}
		}
	}
	return names, nil
}

// measure runs the tests of the mutants' targets over the code as it is, as many at once as will be later. They must pass, and
// what they take is what a mutant's time is measured by.
func measure(all []mutant, jobs int, patience float64) error {
	for i := range targets {
		t := &targets[i]
		if !slices.ContainsFunc(all, func(m mutant) bool { return m.target == t }) {
			continue
		}
		for _, tests := range t.tests {
			var wg sync.WaitGroup
			began := time.Now()
			outcomes := make([]string, jobs)
			for j := range jobs {
				wg.Go(func() { outcomes[j] = goTest("", time.Hour, tests) })
			}
			wg.Wait()
			if k := slices.IndexFunc(outcomes, func(o string) bool { return o != "" }); k >= 0 {
				return fmt.Errorf("without a bug: go test %s: %s", strings.Join(tests, " "), outcomes[k])
			}
			t.limits = append(t.limits, 10*time.Second+time.Duration(patience*float64(time.Since(began))))
		}
	}
	return nil
}

// verdict is what the tests said to a mutant.
type verdict struct {
	mutant
	outcome string // "caught", "survived" or "does not build"
	took    time.Duration
}

// judge runs the tests over the mutants, some at once, and prints each outcome as it comes.
func judge(all []mutant, work string, jobs int) []verdict {
	out := make([]verdict, len(all))
	var wg sync.WaitGroup
	next := make(chan int)
	for j := range jobs {
		wg.Go(func() {
			for i := range next {
				began := time.Now()
				outcome := all[i].test(filepath.Join(work, fmt.Sprint(j)))
				out[i] = verdict{all[i], outcome, time.Since(began)}
				fmt.Printf("%-14s %4.0f s  %s\n", outcome, out[i].took.Seconds(), all[i].name())
			}
		})
	}
	for i := range all {
		next <- i
	}
	close(next)
	wg.Wait()
	return out
}

// test runs the tests with the mutant in the file's place.
func (m mutant) test(folder string) string {
	overlay, err := m.overlay(folder)
	if err != nil {
		return "error: " + err.Error()
	}
	for i, tests := range m.target.tests {
		if outcome := goTest(overlay, m.target.limits[i], tests); outcome != "" {
			return outcome
		}
	}
	return "survived"
}

// goTest runs tests, and says how they fail; nothing if they pass.
func goTest(overlay string, limit time.Duration, tests []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Minute) // to build it takes time, too
	defer cancel()
	args := []string{"test", "-count=1", "-timeout", limit.String(), "-failfast", "-vet=off"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, tests...)...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "PIMOE_SIM_HOURS=6")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return ""
	case bytes.Contains(out, []byte("[build failed]")):
		return "does not build"
	case ctx.Err() != nil, bytes.Contains(out, []byte("panic: test timed out")):
		return "caught (late)"
	}
	return "caught"
}

// overlay writes the mutant and the file that tells the go command of it.
func (m mutant) overlay(folder string) (string, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	source, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	mutated, overlay := filepath.Join(folder, "mutant.go"), filepath.Join(folder, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {source: mutated}})
	if err != nil {
		return "", err
	}
	return overlay, errors.Join(os.WriteFile(mutated, m.text(), 0o600), os.WriteFile(overlay, text, 0o600))
}

// report counts, and names the survivors.
func report(all []verdict, reasons map[string]string, least float64) error {
	caught, judged, unknown := 0, 0, 0
	for _, v := range all {
		switch {
		case strings.HasPrefix(v.outcome, "caught"):
			caught++
			judged++
		case v.outcome == "survived":
			judged++
		case strings.HasPrefix(v.outcome, "error"):
			return errors.New(v.name() + ": " + v.outcome)
		}
	}
	for _, v := range all {
		if v.outcome != "survived" {
			continue
		}
		reason, known := reasons[v.name()]
		if !known {
			unknown++
			reason = "NOT ACCEPTED"
		}
		fmt.Printf("survivor: %s\n          %s\n", v.name(), reason)
	}
	share := 100 * float64(caught) / float64(max(judged, 1))
	fmt.Printf("%d mutants: %d caught (%.1f %%), %d survived, %d of them not accepted; %d do not build\n",
		len(all), caught, share, judged-caught, unknown, len(all)-judged)
	if unknown > 0 || share < least || judged == 0 {
		return errSurvivors
	}
	return nil
}

// readAccepted reads lines of a mutant's name, a tab and the reason why no test need notice it. # begins a comment.
func readAccepted(path string) (map[string]string, error) {
	reasons := map[string]string{}
	if path == "" {
		return reasons, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		name, reason, ok := strings.Cut(line, "\t")
		if !ok || strings.TrimSpace(reason) == "" {
			return nil, fmt.Errorf("%s: no reason: %q", path, line)
		}
		reasons[name] = strings.TrimSpace(reason)
	}
	return reasons, nil
}
