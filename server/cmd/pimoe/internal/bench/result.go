package bench

import (
	"cmp"
	"slices"
	"time"

	"gonum.org/v1/gonum/stat"
)

// Percentiles are in milliseconds.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// Spread is a figure over the rounds.
type Spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// Result is the outcome of one workload on one side.
type Result struct {
	Workload  string `json:"workload"`
	Parallel  int    `json:"parallel"`
	Prompt    int    `json:"prompt"`
	Gen       int    `json:"gen"`
	Isolation string `json:"isolation"`          // process, inproc or peer
	Settings  string `json:"settings,omitempty"` // of Target
	Peer      string `json:"peer,omitempty"`

	PrefillTPS float64     `json:"prefill_tps"` // prompt tokens a second, from the first submit to the last first token; median
	DecodeTPS  float64     `json:"decode_tps"`  // tokens a second of all requests while all of them decode; median
	Prefill    Spread      `json:"prefill"`
	Decode     Spread      `json:"decode"`
	TTFT       float64     `json:"ttft_ms"` // median
	ITL        Percentiles `json:"itl_ms"`
	Layer      Percentiles `json:"layer_ms"` // one layer's gate, router and experts, of layer workloads

	// Tax is 1 - process/inproc of the decode rate, the median over the rounds; nil unless both ran. It stands with
	// the process result.
	Tax             *float64 `json:"tax"`
	PrefillTax      *float64 `json:"prefill_tax"`
	TaxRange        *Spread  `json:"tax_range,omitempty"`
	PrefillTaxRange *Spread  `json:"prefill_tax_range,omitempty"`

	Experts        float64 `json:"experts_per_step"` // distinct ones in one layer
	BytesPerStep   float64 `json:"bytes_per_step"`   // weights that a decode step reads
	BytesPerToken  float64 `json:"bytes_per_token"`
	BandwidthShare float64 `json:"bandwidth_share"` // of what the machine's memory gives; 0 = not known
	Allocs         float64 `json:"allocs_per_token"`

	Ratios []Ratio `json:"ratios,omitempty"`
}

// Ratio compares a side with a peer, or one with other settings with the side of its isolation that has none, round by
// round: above 1 the side is faster.
type Ratio struct {
	Peer    string  `json:"peer"`
	Prefill *Spread `json:"prefill"`
	Decode  *Spread `json:"decode"`
}

// results summarises a finished run: for each workload its targets, then the peers that measured it too.
func (r *record) results() []Result {
	var out []Result
	for i, w := range r.options.Workloads {
		first := len(out)
		for t, target := range r.targets {
			s := summarise(r.samples[i][t])
			s.Isolation, s.Settings, s.Ratios = target.Isolation, target.Settings, r.ratios(w, r.samples[i][t])
			if plain := r.plain(target); target.Settings != "" && plain >= 0 {
				others := r.samples[i][plain]
				s.Ratios = append(s.Ratios, ratioTo(target.Isolation, r.samples[i][t], func(round int) (prefill, decode float64) {
					return others[round].prefill, others[round].decode
				}))
			}
			out = append(out, r.finished(s, i, r.options.Weights))
		}
		setTax(out[first:], r.samples[i])
		for p := range r.options.Peers {
			if s := r.peerResult(w, p); s.Prefill.Max > 0 || s.Decode.Max > 0 {
				out = append(out, r.finished(s, i, r.options.Weights.stored(r.peers[0][p].BytesPerWeight)))
			}
		}
	}
	return out
}

// finished adds to a summary what follows from the workload and from what its steps read.
func (r *record) finished(s Result, workload int, read Weights) Result {
	w := r.options.Workloads[workload]
	s.Workload, s.Parallel, s.Prompt, s.Gen = w.Name, w.Parallel, w.Prompt, w.Gen
	s.PrefillTPS, s.DecodeTPS, s.Experts = s.Prefill.Median, s.Decode.Median, r.experts[workload]
	s.BytesPerStep = read.step(s.Experts)
	s.BytesPerToken = s.BytesPerStep / float64(w.Parallel)
	return s
}

func (r *record) peerResult(w Workload, p int) Result {
	var prefill, decode []float64
	for _, row := range r.peers {
		a, b := row[p].of(w)
		prefill, decode = append(prefill, a), append(decode, b)
	}
	return Result{Isolation: Other, Peer: r.peerName(p), Prefill: spread(prefill), Decode: spread(decode)}
}

// peerName is what the peer calls itself, else its command.
func (r *record) peerName(p int) string {
	return cmp.Or(r.peers[0][p].Name, r.options.Peers[p].Command)
}

func summarise(samples []sample) Result {
	var prefill, decode, ttft, itl, layer, allocs []float64
	for _, s := range samples {
		prefill, decode, allocs = append(prefill, s.prefill), append(decode, s.decode), append(allocs, s.allocs)
		ttft, itl, layer = append(ttft, millis(s.ttft)...), append(itl, millis(s.itl)...), append(layer, millis(s.layer)...)
	}
	return Result{Prefill: spread(prefill), Decode: spread(decode), TTFT: quantile(.5, ttft), ITL: percentiles(itl), Layer: percentiles(layer),
		Allocs: quantile(.5, allocs)}
}

// setTax compares the process target with the in-process one, round by round.
func setTax(results []Result, samples [][]sample) {
	at := func(isolation string) int {
		return slices.IndexFunc(results, func(r Result) bool { return r.Isolation == isolation })
	}
	isolated, direct := at(Process), at(InProc)
	if isolated < 0 || direct < 0 {
		return
	}
	r := &results[isolated]
	r.Tax, r.TaxRange = tax(samples[isolated], samples[direct], func(s sample) float64 { return s.decode })
	r.PrefillTax, r.PrefillTaxRange = tax(samples[isolated], samples[direct], func(s sample) float64 { return s.prefill })
}

// tax is 1 - isolated/direct, its median alone and its spread; nil where a rate is missing.
func tax(isolated, direct []sample, of func(sample) float64) (median *float64, all *Spread) {
	var xs []float64
	for round := range isolated {
		if of(direct[round]) > 0 {
			xs = append(xs, 1-of(isolated[round])/of(direct[round]))
		}
	}
	if len(xs) == 0 {
		return nil, nil
	}
	s := spread(xs)
	return &s.Median, &s
}

// plain is the target of the same isolation without settings; -1 = none.
func (r *record) plain(t Target) int {
	return slices.IndexFunc(r.targets, func(o Target) bool { return o.Isolation == t.Isolation && o.Settings == "" })
}

// ratios compares the samples of one side with every peer.
func (r *record) ratios(w Workload, samples []sample) []Ratio {
	var out []Ratio
	for p := range r.options.Peers {
		ratio := ratioTo(r.peerName(p), samples, func(round int) (prefill, decode float64) { return r.peers[round][p].of(w) })
		if ratio.Prefill != nil || ratio.Decode != nil {
			out = append(out, ratio)
		}
	}
	return out
}

// ratioTo compares samples with the rates that another side had in the same rounds; 0 = not measured.
func ratioTo(name string, samples []sample, rates func(round int) (prefill, decode float64)) Ratio {
	var prefill, decode []float64
	for round, s := range samples {
		a, b := rates(round)
		if a > 0 {
			prefill = append(prefill, s.prefill/a)
		}
		if b > 0 {
			decode = append(decode, s.decode/b)
		}
	}
	ratio := Ratio{Peer: name}
	if len(prefill) > 0 {
		s := spread(prefill)
		ratio.Prefill = &s
	}
	if len(decode) > 0 {
		s := spread(decode)
		ratio.Decode = &s
	}
	return ratio
}

func spread(xs []float64) Spread {
	return Spread{quantile(0, xs), quantile(.5, xs), quantile(1, xs)}
}

func percentiles(xs []float64) Percentiles {
	return Percentiles{quantile(.5, xs), quantile(.95, xs), quantile(.99, xs)}
}

// quantile is the empirical quantile; 0 of nothing.
func quantile(q float64, xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	return stat.Quantile(q, stat.Empirical, xs, nil)
}

func millis(ds []time.Duration) []float64 {
	out := make([]float64, len(ds))
	for i, d := range ds {
		out[i] = float64(d) / float64(time.Millisecond)
	}
	return out
}
