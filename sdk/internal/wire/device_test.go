package wire

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
)

// TestDevices: what a process says of its devices crosses unchanged; what can't be true, or can't be a label, is refused, and what is
// for people stays on one line.
func TestDevices(t *testing.T) {
	want := []expert.Device{
		{ID: "0", Name: "a GPU", MemoryBytes: 8 << 30, UsedBytes: 3, WeightBytes: 2, KernelSeconds: 1.5, UploadSeconds: 0.25, DownloadSeconds: 0.125, UploadBytes: 7, DownloadBytes: 9, Staged: "no"},
		{ID: "GPU-1f:0"},
	}
	got, err := DevicesOf(Devices(want))
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	for name, list := range map[string][]*pb.Device{
		"no id":        {{}},
		"id of quotes": {{Id: `a"b`}},
		"long id":      {{Id: strings.Repeat("a", 65)}},
		"twice":        {{Id: "0"}, {Id: "0"}},
		"negative":     Devices([]expert.Device{{ID: "0", UsedBytes: -1}}),
		"NaN":          {{Id: "0", KernelSeconds: math.NaN()}},
		"infinite":     {{Id: "0", UploadSeconds: math.Inf(1)}},
		"backwards":    {{Id: "0", DownloadSeconds: -1}},
		"many":         make([]*pb.Device, maxDevices+1),
	} {
		if got, err := DevicesOf(list); !errors.Is(err, sdk.ErrInvalidOutput) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	got, err = DevicesOf([]*pb.Device{{Id: "0", Name: "two\nlines\x1b[31m", Staged: strings.Repeat("é", maxDeviceText)}})
	if err != nil || got[0].Name != "two lines [31m" || len(got[0].Staged) > maxDeviceText || strings.Trim(got[0].Staged, "é") != "" {
		t.Errorf("%+v %v", got, err)
	}
}
