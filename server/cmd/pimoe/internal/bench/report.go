package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// Report is everything that one run of the command has found.
type Report struct {
	Machine Machine  `json:"machine"`
	Command string   `json:"command"`
	Model   string   `json:"model"`
	Digest  string   `json:"digest"`
	Classes []string `json:"classes"` // of the experts, then of the trunk
	Before  *Limits  `json:"limits_before"`
	After   *Limits  `json:"limits_after"`
	Sides   []Side   `json:"sides"`
	Results []Result `json:"results"`
}

// Machine is where a run was measured.
type Machine struct {
	Time    time.Time `json:"time"`
	CPU     string    `json:"cpu"`
	Cores   int       `json:"cores"`
	Memory  uint64    `json:"memory"`
	OS      string    `json:"os"`
	Kernel  string    `json:"kernel"`
	Go      string    `json:"go"`
	Version string    `json:"version"`
}

// ThisMachine describes where the program runs; version is its own.
func ThisMachine(version string) Machine {
	cpu, memory := processor()
	return Machine{time.Now(), cpu, runtime.NumCPU(), memory, runtime.GOOS + "/" + runtime.GOARCH, kernel(), runtime.Version(), version}
}

// OwnBytes is the memory that a process alone pays for.
func OwnBytes(pid int) (int64, error) { return ownBytes(pid) }

// Side is one way in which the experts ran.
type Side struct {
	Isolation string    `json:"isolation"`
	Settings  string    `json:"settings,omitempty"` // of Target
	Processes int       `json:"processes"`          // of experts
	Starts    []float64 `json:"starts_ms"`          // from nothing to the first ready, one for each try
	OwnBytes  []int64   `json:"own_bytes"`          // memory of each expert process behind the load: no slots, no weights
	Idle      float64   `json:"idle_cores"`
}

// SetLimits takes the limits measured before and after a run and says which share of the bandwidth decoding took: of the
// better of both, because a limit is what is possible.
func (r *Report) SetLimits(before, after Limits) {
	r.Before, r.After = &before, &after
	bandwidth := 1e9 * max(before.Mapped[1], after.Mapped[1])
	for i := range r.Results {
		s := &r.Results[i]
		s.BandwidthShare = s.BytesPerToken * s.DecodeTPS / bandwidth
	}
}

// settle is how long processes get to finish what a load has left behind, such as a collection of garbage.
const settle = time.Second

// Watch fills in what the processes of a side cost after its load: their memory, and the processor time of all of them
// and of this process while nothing is asked for.
func (s *Side) Watch(ctx context.Context, experts, others []int, d time.Duration) error {
	for _, pid := range experts {
		n, err := ownBytes(pid)
		if err != nil {
			return err
		}
		s.OwnBytes = append(s.OwnBytes, n)
	}
	if d <= 0 {
		return nil
	}
	all := slices.Concat(experts, others, []int{os.Getpid()})
	work := func() (sum time.Duration) {
		for _, pid := range all {
			sum += cpuTime(pid)
		}
		return sum
	}
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	before, start := work(), time.Now()
	if err := sleep(ctx, d); err != nil {
		return err
	}
	s.Idle = float64(work()-before) / float64(time.Since(start))
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Write prints a report for people.
func (r Report) Write(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%s: experts %s, trunk %s\n", r.Model, r.Classes[0], r.Classes[1])
	fmt.Fprintf(w, "%s, %d cores, %.0f GiB, %s %s, %s, pimoe %s, %s\n", m.CPU, m.Cores, float64(m.Memory)/(1<<30), m.OS, m.Kernel, m.Go, m.Version,
		m.Time.Format(time.DateOnly))
	if err := r.writeLimits(w); err != nil {
		return err
	}
	if err := WriteResults(w, r.Results); err != nil {
		return err
	}
	return r.writeSides(w)
}

func (r Report) writeLimits(w io.Writer) error {
	var rows [][]string
	for _, l := range []struct {
		when string
		*Limits
	}{{"before", r.Before}, {"after", r.After}} {
		if l.Limits == nil {
			continue
		}
		row := []string{l.when, fmt.Sprintf("1 / %d", l.Threads)}
		for _, x := range [][2]Rate{l.Mapped, l.Huge, l.FMA, l.VNNI, l.Int8, l.BF16} {
			row = append(row, fmt.Sprintf("%.1f / %.1f", x[0], x[1]))
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil
	}
	return section(w, []string{"LIMITS", "THREADS", "READ MAPPED GB/S", "READ 2M PAGES GB/S", "F32 FMA GFLOP/S", "INT8 VNNI GOP/S", "INT8 AMX GOP/S", "BF16 AMX GFLOP/S"}, rows)
}

// WriteResults prints the figures, then the ratios to peers. Columns that nothing fills are left out.
func WriteResults(w io.Writer, results []Result) error {
	var rows, ratios [][]string
	for _, r := range results {
		side := sideName(r.Isolation, r.Settings)
		if r.Peer != "" {
			side = r.Peer
		}
		layer := "-"
		if r.Layer.P50 > 0 {
			layer = fmt.Sprintf("%.3f / %.3f", r.Layer.P50, r.Layer.P95)
		}
		rows = append(rows, []string{r.Workload, side, rates(r.Prefill), rates(r.Decode), number("%.1f", r.TTFT), number("%.2f", r.ITL.P50), number("%.2f", r.ITL.P99),
			layer, percent(r.TaxRange), percent(r.PrefillTaxRange), number("%.1f", r.Experts), number("%.1f", r.BytesPerToken/1e6), share(r.BandwidthShare),
			number("%.1f", r.Allocs)})
		for _, q := range r.Ratios {
			ratios = append(ratios, []string{r.Workload, side, q.Peer, times(q.Prefill), times(q.Decode)})
		}
	}
	header := []string{"WORKLOAD", "SIDE", "PREFILL TOK/S", "DECODE TOK/S", "TTFT MS", "ITL P50", "P99", "LAYER P50/P95 MS", "TAX", "PREFILL TAX",
		"EXPERTS/STEP", "MB/TOKEN", "OF BANDWIDTH", "ALLOCS/TOKEN"}
	if err := section(w, header, rows); err != nil {
		return err
	}
	if len(ratios) == 0 {
		return nil
	}
	return section(w, []string{"WORKLOAD", "SIDE", "AGAINST", "PREFILL", "DECODE"}, ratios)
}

func (r Report) writeSides(w io.Writer) error {
	var rows [][]string
	for _, s := range r.Sides {
		start, memory, idle := "-", "-", "-"
		if len(s.Starts) > 0 {
			start = fmt.Sprintf("%.0f", quantile(.5, s.Starts))
		}
		if len(s.OwnBytes) > 0 {
			memory = fmt.Sprintf("%.1f / %.1f", float64(slices.Min(s.OwnBytes))/1e6, float64(slices.Max(s.OwnBytes))/1e6)
		}
		if s.Idle > 0 {
			idle = fmt.Sprintf("%.2f%%", 100*s.Idle)
		}
		rows = append(rows, []string{sideName(s.Isolation, s.Settings), fmt.Sprint(s.Processes), start, memory, idle})
	}
	if len(rows) == 0 {
		return nil
	}
	return section(w, []string{"SIDE", "EXPERT PROCESSES", "START MS", "OWN MB EACH MIN/MAX", "IDLE CORES"}, rows)
}

func sideName(isolation, settings string) string {
	return strings.TrimSpace(isolation + " " + settings)
}

// section is a table behind an empty line, without the columns in which every row has "-".
func section(w io.Writer, header []string, rows [][]string) error {
	for c := len(header) - 1; c >= 0; c-- {
		if !slices.ContainsFunc(rows, func(row []string) bool { return row[c] != "-" }) {
			header = slices.Delete(slices.Clone(header), c, c+1)
			for i := range rows {
				rows[i] = slices.Delete(rows[i], c, c+1)
			}
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return table.Write(w, header, rows)
}

// rates is a median with the range behind it.
func rates(s Spread) string {
	if s.Max <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f (%.1f to %.1f)", s.Median, s.Min, s.Max)
}

func times(s *Spread) string {
	if s == nil {
		return "-"
	}
	return fmt.Sprintf("%.2fx (%.2f to %.2f)", s.Median, s.Min, s.Max)
}

func percent(s *Spread) string {
	if s == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f%% (%.1f to %.1f)", 100*s.Median, 100*s.Min, 100*s.Max)
}

func share(x float64) string {
	if x <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*x)
}

func number(format string, x float64) string {
	if x <= 0 {
		return "-"
	}
	return strings.TrimSuffix(fmt.Sprintf(format, x), ".0")
}
