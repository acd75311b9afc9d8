package cuda

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func TestClass(t *testing.T) {
	for _, c := range []struct {
		dtype       tensor.DType
		asked, want string
	}{
		{tensor.F32, "", "f32"}, {tensor.BF16, "auto", "bf16w-f32"}, {tensor.F16, "", "f16w-f32"}, {tensor.I8, "", "int8g32"},
		{tensor.BF16, "int8g32", "int8g32"}, {tensor.BF16, "cuda-bf16", "cuda-bf16"}, {tensor.F16, "cuda-f16", "cuda-f16"},
		{tensor.F32, "cuda-bf16", ""}, {tensor.BF16, "cuda-f16", ""}, {tensor.BF16, "bf16", ""}, {tensor.I8, "f32", ""},
	} {
		got, err := New(Options{}).Class(c.dtype, c.asked)
		if got != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("Class(%v, %q) = %q, %v; want %q", c.dtype, c.asked, got, err, c.want)
		}
	}
}

// TestKernels: every kernel that a class may launch is an entry of its PTX, made for an architecture on which the class is
// offered, and rounds as the classes say: multiply and add apart only by fma.rn, no flush of subnormals, no approximation.
func TestKernels(t *testing.T) {
	for class, k := range kinds {
		for _, sm := range []int{k.needs, 70, 75, 80, 90, 120} {
			if sm < k.needs {
				continue
			}
			rows := 0
			for _, v := range k.available(sm) {
				text, err := ptx.ReadFile("kernel/" + v.family + ".ptx")
				if err != nil {
					t.Fatalf("%s: %v", class, err)
				}
				if v.rows <= rows {
					t.Errorf("%s on sm_%d: variants don't ascend", class, sm)
				}
				rows = v.rows
				want := []string{launched("gate_up", v), launched("linear", v)}
				if k.convert != nil {
					want = append(want, "convert_"+v.family)
				}
				for _, name := range want {
					if !strings.Contains(string(text), ".visible .entry "+name+"(") {
						t.Errorf("%s on sm_%d: no kernel %s", class, sm, name)
					}
				}
				if target := max(v.needs, k.needs); !strings.Contains(string(text), fmt.Sprintf(".target sm_%d\n", target)) {
					t.Errorf("%s.ptx is not for sm_%d", v.family, target)
				}
				for _, bad := range []string{".ftz", ".approx", "mad.f32", "fma.rz"} {
					if strings.Contains(string(text), bad) {
						t.Errorf("%s.ptx rounds in another way: it has %s", v.family, bad)
					}
				}
			}
			if rows == 0 {
				t.Errorf("%s has no kernels on sm_%d", class, sm)
			}
		}
	}
}

// TestSplit: the rows of parts are cut where a chunk ends, and none is lost.
func TestSplit(t *testing.T) {
	a, b, c := unit{bytes: 1}, unit{bytes: 2}, unit{bytes: 3}
	parts := []part{{a, 3}, {b, 5}, {c, 1}}
	var got []part
	for _, rows := range []int{2, 1, 4, 2} {
		var first []part
		first, parts = split(parts, rows)
		got = append(got, first...)
	}
	want := []part{{a, 2}, {a, 1}, {b, 4}, {b, 1}, {c, 1}}
	if len(parts) != 0 || len(got) != len(want) {
		t.Fatalf("%v, and %v is left", got, parts)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("part %d is %v, want %v", i, got[i], want[i])
		}
	}
}
