package profile_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/core/profile"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// recorded has two layers of eight experts that do alike, but for the changes.
func recorded(change func(r *profile.Recorder)) profile.Profile {
	r := profile.NewRecorder([]int{0, 2}, 8)
	for _, l := range []int{0, 2} {
		for e := range 8 {
			for range 10 {
				r.Add(l, e, 0.5, []float32{3, -4})
			}
		}
	}
	change(r)
	return r.Profile("sha256:a", 80)
}

func TestCritical(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*profile.Recorder)
		want   map[expert.Unit]bool
	}{
		"none": {func(*profile.Recorder) {}, map[expert.Unit]bool{}},
		"much used": {func(r *profile.Recorder) {
			for range 50 {
				r.Add(2, 5, 0.5, []float32{3, -4})
			}
		}, map[expert.Unit]bool{{Layer: 2, Expert: 5}: true}},
		"loud, seldom": {func(r *profile.Recorder) { r.Add(0, 1, 0.001, []float32{0, -41}) }, map[expert.Unit]bool{{Layer: 0, Expert: 1}: true}},
		"not so loud":  {func(r *profile.Recorder) { r.Add(0, 1, 0.001, []float32{0, -39}) }, map[expert.Unit]bool{}},
	} {
		if d := cmp.Diff(c.want, recorded(c.change).Critical()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	j := recorded(func(*profile.Recorder) {}).Judge()[3]
	if j.Expert != 3 || j.Rows != 10 || j.Mass != 5 || math.Abs(j.Contribution-25) > 1e-9 || j.Peak != 4 || j.Share != 0.125 || j.Outlier != 1 {
		t.Errorf("%+v", j)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.json")
	if _, err := profile.Read(path, "sha256:a"); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	p := recorded(func(*profile.Recorder) {})
	if err := p.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := profile.Read(path, "sha256:a")
	if d := cmp.Diff(p, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	if _, err := profile.Read(path, "sha256:b"); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("another model's: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := profile.Read(path, "sha256:a"); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("damaged: %v", err)
	}
}
