// Command testreport reads what `go test -json` prints, shows one line for each package and the whole output of what
// failed, and what a test has measured (its log lines that begin with "measured: "). It ends with a table of all skipped
// tests and their reasons, and with the counts.
//
// The Makefile's test target pipes through it. With PIMOE_TEST_STRICT=1 a skip is a failure unless its reason is on
// the allowed list. It refuses to hide anything: build errors and lines that are no JSON are shown as they come.
//
// Exit codes: 0 all passed, 1 something failed, 2 the arguments are wrong.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

func main() {
	allowed := flag.String("allowed", "", "file with a regular expression a line: reasons for which a skip is no failure")
	noted := flag.String("noted", "", "file with steps that were skipped outside go test: NAME, a tab, REASON a line")
	summary := flag.Bool("summary", false, "read earlier reports' skip files named as arguments, and print the last table")
	save := flag.String("save", "", "append the skips to this file instead of printing the table")
	flag.Parse()
	patterns, err := readPatterns(*allowed)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	r := &report{out: os.Stdout, allowed: patterns, strict: os.Getenv("PIMOE_TEST_STRICT") == "1"}
	if !*summary {
		r.read(os.Stdin)
	}
	for _, path := range append(flag.Args(), *noted) {
		if err := r.addNoted(path); err != nil {
			fmt.Fprintln(os.Stderr, "testreport:", err)
			os.Exit(2)
		}
	}
	if *save != "" {
		if err := r.saveTo(*save); err != nil {
			fmt.Fprintln(os.Stderr, "testreport:", err)
			os.Exit(2)
		}
	} else {
		r.table()
	}
	if r.failed {
		os.Exit(1)
	}
}

// event is one line of `go test -json` (see go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// skip is one test that did not run.
type skip struct{ name, reason string }

type report struct {
	out     io.Writer
	allowed []*regexp.Regexp
	strict  bool

	output map[string][]string // by package and test
	skips  []skip
	count  struct{ passed, failed int } // tests, subtests included
	failed bool
}

func (r *report) read(in io.Reader) {
	r.output = map[string][]string{}
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 1<<20), 64<<20) // one line of a test's output may be long
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Fprintln(r.out, sc.Text())
			continue
		}
		r.event(e)
	}
	if err := sc.Err(); err != nil {
		fmt.Fprintln(r.out, "testreport: read:", err)
		r.failed = true
	}
}

func (r *report) event(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "build-fail":
		r.failed = true
	case "output":
		r.output[key] = append(r.output[key], e.Output)
	case "pass":
		if e.Test == "" {
			fmt.Fprintf(r.out, "ok    %-60s %6.1fs\n", e.Package, e.Elapsed)
		} else {
			r.count.passed++
			r.measured(e.Test, r.output[key])
		}
		delete(r.output, key)
	case "fail":
		r.failed = true
		if e.Test == "" {
			fmt.Fprintf(r.out, "FAIL  %-60s %6.1fs\n", e.Package, e.Elapsed)
		} else {
			r.count.failed++
			fmt.Fprintf(r.out, "--- FAIL: %s %s\n", e.Package, e.Test)
		}
		for _, line := range r.output[key] {
			fmt.Fprint(r.out, "    ", line)
		}
		delete(r.output, key)
	case "skip":
		if e.Test != "" { // else a package without tests
			r.skips = append(r.skips, skip{e.Package + " " + e.Test, reasonOf(r.output[key])})
		}
		delete(r.output, key)
	}
}

var logLine = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)$`)

// measured shows the figures of a test that passed; those of one that failed are in its output.
func (r *report) measured(test string, lines []string) {
	for _, l := range lines {
		if m := logLine.FindStringSubmatch(strings.TrimRight(l, "\n")); m != nil && strings.HasPrefix(m[1], measuredMark) {
			fmt.Fprintf(r.out, "      %s: %s\n", test, strings.TrimPrefix(m[1], measuredMark))
		}
	}
}

const measuredMark = "measured: "

// countsMark is the name under which the counts stand among the saved skips. No test has such a name.
const countsMark = "#counts"

// reasonOf is the text of the last thing that a skipped test said.
func reasonOf(lines []string) string {
	for _, l := range slices.Backward(lines) {
		if m := logLine.FindStringSubmatch(strings.TrimRight(l, "\n")); m != nil {
			return m[1]
		}
	}
	return "no reason given"
}

func (r *report) addNoted(path string) error {
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		name, reason, ok := strings.Cut(strings.TrimSpace(line), "\t")
		var passed, failed int
		if name == countsMark {
			if _, err := fmt.Sscanf(reason, "%d %d", &passed, &failed); err != nil {
				return fmt.Errorf("%s: counts %q: %w", path, reason, err)
			}
			r.count.passed += passed
			r.count.failed += failed
		} else if ok {
			r.skips = append(r.skips, skip{name, reason})
		}
	}
	return nil
}

func (r *report) saveTo(path string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s\t%d %d\n", countsMark, r.count.passed, r.count.failed); err != nil {
		return err
	}
	for _, s := range r.skips {
		if _, err := fmt.Fprintf(f, "%s\t%s\n", s.name, s.reason); err != nil {
			return err
		}
	}
	return nil
}

// table prints every skip, marks those that a strict run does not take, and ends with the counts.
func (r *report) table() {
	defer func() {
		fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.count.passed, r.count.failed, len(r.skips))
	}()
	if len(r.skips) == 0 {
		fmt.Fprintln(r.out, "\nNothing was skipped.")
		return
	}
	slices.SortFunc(r.skips, func(a, b skip) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.reason, b.reason))
	})
	fmt.Fprintln(r.out, "\nSkipped:")
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	for _, s := range slices.Compact(r.skips) {
		mark := "allowed"
		if !r.isAllowed(s) {
			mark = "skipped"
			if r.strict {
				mark, r.failed = "FAILURE", true
			}
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", mark, s.name, s.reason)
	}
	w.Flush()
	if r.strict && r.failed {
		fmt.Fprintln(r.out, "PIMOE_TEST_STRICT=1: only skips on the list in scripts/allowed-skips.txt are taken.")
	}
}

func (r *report) isAllowed(s skip) bool {
	return slices.ContainsFunc(r.allowed, func(p *regexp.Regexp) bool { return p.MatchString(s.reason) })
}

func readPatterns(path string) ([]*regexp.Regexp, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*regexp.Regexp
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		p, err := regexp.Compile(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, p)
	}
	return out, nil
}
