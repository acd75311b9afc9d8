package bench

import (
	"fmt"
	"io"
	"strings"
)

// Markdown prints reports as one table for a page: a line for each workload and number of expert processes, with the
// first peer beside it.
func Markdown(w io.Writer, reports []Report) error {
	var b strings.Builder
	b.WriteString("| model, class | workload | tok/s, processes | tok/s, direct calls | tax | other | tok/s | processes against it |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range reports {
		for i, s := range r.Results {
			if s.Isolation != Process || s.Settings != "" || s.Layer.P50 > 0 {
				continue
			}
			prompt := s.Gen == 1 // else the decode rate is what was measured
			direct, peer := Result{}, Result{}
			for _, o := range r.Results[i:] {
				if o.Workload == s.Workload && o.Isolation == InProc {
					direct = o
				}
				if o.Workload == s.Workload && o.Isolation == Other && peer.Peer == "" {
					peer = o
				}
			}
			tax, ratio := s.TaxRange, "-"
			rate := func(o Result) string { return number("%.1f", o.DecodeTPS) }
			if prompt {
				tax, rate = s.PrefillTaxRange, func(o Result) string { return number("%.0f", o.PrefillTPS) }
			}
			if len(s.Ratios) > 0 {
				if ratio = times(s.Ratios[0].Decode); prompt {
					ratio = times(s.Ratios[0].Prefill)
				}
			}
			name := peer.Peer
			if name == "" {
				name = "-"
			}
			fmt.Fprintf(&b, "| %s, %s, %d processes | %s | %s | %s | %s | %s | %s | %s |\n", modelName(r.Model), r.Classes[0], processes(r), s.Workload,
				rate(s), rate(direct), percent(tax), name, rate(peer), ratio)
		}
	}
	if len(reports) > 0 {
		m := reports[0].Machine
		fmt.Fprintf(&b, "\nMeasured on %s: %s, %d cores, %.0f GiB, %s %s, %s. Medians of the rounds of one run, their range in brackets.\n", m.Time.Format("2006-01-02"),
			m.CPU, m.Cores, float64(m.Memory)/(1<<30), m.OS, m.Kernel, m.Go)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// modelName is a random model's shape, else the name.
func modelName(id string) string {
	if name, ok := strings.CutPrefix(id, "shape-"); ok {
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			return name[:i]
		}
	}
	return id
}

// processes are those of the isolated side.
func processes(r Report) int {
	for _, s := range r.Sides {
		if s.Isolation == Process {
			return s.Processes
		}
	}
	return 0
}
