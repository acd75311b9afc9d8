// Package profile measures what each expert of a model contributes, and says which experts are critical: those whose loss
// no policy may hide. It keeps the figures in a file beside the model.
//
// The command `experts profile` records one, server/instance reads it at the start. The package refuses figures of another
// model, and it judges experts by numbers alone.
package profile

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

const (
	// CriticalShare is the share of all that the experts of a layer contribute above which one of them is critical, in
	// multiples of an even share: three times what it would have if all did alike. Below that a layer of eight experts
	// would have critical ones by chance; much above, one that carries half of a layer would not be noticed.
	CriticalShare = 3
	// CriticalPeak is how many times the median of the layer's largest outputs an expert's largest output is when it is
	// critical. Experts that alone write the huge activations which attention rests on lie at tens to hundreds; ordinary
	// ones within a factor of three.
	CriticalPeak = 10
	// MaxShare bounds CriticalShare in layers of few experts: who contributes most of the layer is critical.
	MaxShare = 0.75
)

// version is that of the file.
const version = 1

// Profile is what the experts of a model contributed to some text.
type Profile struct {
	Version int    `json:"version"`
	Model   string `json:"model_digest"`
	Tokens  int    `json:"tokens"`
	Units   []Unit `json:"units"` // by layer, then expert
}

// Unit are the figures of one expert of one layer.
type Unit struct {
	Layer        int     `json:"layer"`
	Expert       int     `json:"expert"`
	Rows         int     `json:"rows"`         // routed to it
	Mass         float64 `json:"mass"`         // sum of their weights
	Contribution float64 `json:"contribution"` // sum of weight * norm of the output
	Peak         float64 `json:"peak"`         // largest absolute value of an output
}

// Recorder collects a Profile. Add is called from one goroutine at a time.
type Recorder struct{ units map[expert.Unit]*Unit }

// NewRecorder knows all experts of some layers, also those that no row chooses.
func NewRecorder(layers []int, experts int) *Recorder {
	r := &Recorder{units: map[expert.Unit]*Unit{}}
	for _, l := range layers {
		for e := range experts {
			r.units[expert.Unit{Layer: l, Expert: e}] = &Unit{Layer: l, Expert: e}
		}
	}
	return r
}

// Add notes the output of an expert for one row, and the weight that it has in the row's sum.
func (r *Recorder) Add(layer, e int, weight float32, y []float32) {
	u := r.units[expert.Unit{Layer: layer, Expert: e}]
	var square, peak float64
	for _, v := range y {
		square += float64(v) * float64(v)
		peak = max(peak, math.Abs(float64(v)))
	}
	u.Rows++
	u.Mass += float64(weight)
	u.Contribution += float64(weight) * math.Sqrt(square)
	u.Peak = max(u.Peak, peak)
}

// Profile is what was recorded of a model's digest over so many tokens.
func (r *Recorder) Profile(model string, tokens int) Profile {
	p := Profile{Version: version, Model: model, Tokens: tokens}
	for _, u := range r.units {
		p.Units = append(p.Units, *u)
	}
	slices.SortFunc(p.Units, func(a, b Unit) int { return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Expert, b.Expert)) })
	return p
}

// Judged is a Unit beside the others of its layer.
type Judged struct {
	Unit
	Share    float64 `json:"share"`    // of the layer's contribution
	Outlier  float64 `json:"outlier"`  // its peak by the median of the layer's peaks
	Critical bool    `json:"critical"` // above CriticalShare or CriticalPeak
}

// Judge compares each unit with those of its layer.
func (p Profile) Judge() []Judged {
	layers := map[int][]Unit{}
	for _, u := range p.Units {
		layers[u.Layer] = append(layers[u.Layer], u)
	}
	var out []Judged
	for _, u := range p.Units {
		all := layers[u.Layer]
		var sum float64
		peaks := make([]float64, len(all))
		for i, x := range all {
			sum += x.Contribution
			peaks[i] = x.Peak
		}
		slices.Sort(peaks)
		j := Judged{Unit: u}
		if sum > 0 {
			j.Share = u.Contribution / sum
		}
		if median := peaks[len(peaks)/2]; median > 0 {
			j.Outlier = u.Peak / median
		}
		j.Critical = j.Share > min(CriticalShare/float64(len(all)), MaxShare) || j.Outlier > CriticalPeak
		out = append(out, j)
	}
	return out
}

// Critical are the critical units.
func (p Profile) Critical() map[expert.Unit]bool {
	out := map[expert.Unit]bool{}
	for _, j := range p.Judge() {
		if j.Critical {
			out[expert.Unit{Layer: j.Layer, Expert: j.Expert}] = true
		}
	}
	return out
}

// Read reads the profile of a model. One that is not there is sdk.ErrNotFound, one of other weights sdk.ErrInvalid.
func Read(path, model string) (Profile, error) {
	var p Profile
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, fmt.Errorf("read profile %s: %w", path, sdk.ErrNotFound)
	case err != nil:
		return p, fmt.Errorf("read profile: %w", err)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("read profile %s: %w: %w", path, sdk.ErrInvalid, err)
	}
	if p.Version != version || p.Model != model {
		return p, fmt.Errorf("read profile %s: version %d of model %s, want version %d of model %s: %w", path, p.Version, p.Model, version, model, sdk.ErrInvalid)
	}
	return p, nil
}

// Write puts the profile into a file, whole or not at all.
func (p Profile) Write(path string) error {
	b, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return fmt.Errorf("write profile: %w", err)
	}
	if err := os.WriteFile(path+".partial", b, 0o600); err != nil {
		return fmt.Errorf("write profile: %w", err)
	}
	if err := os.Rename(path+".partial", path); err != nil {
		return fmt.Errorf("write profile: %w", err)
	}
	return nil
}
