package config

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// TestDiff changes every key, one at a time: each is found alone, changes the hash (but for secrets), and is live or not as
// the table says.
func TestDiff(t *testing.T) {
	base := Default()
	if d := Diff(base, Default()); d != nil || base.Hash() != Default().Hash() {
		t.Fatalf("the same configuration differs from itself: %+v", d)
	}
	seen := map[string]bool{}
	walkValues(reflect.ValueOf(base), reflect.ValueOf(base), "", func(key string, _, _ reflect.Value) {
		seen[key] = true
		other := Default()
		v := reflect.ValueOf(&other).Elem()
		for _, part := range strings.Split(key, ".") {
			for i := range v.NumField() {
				if v.Type().Field(i).Tag.Get("koanf") == part {
					v = v.Field(i)
					break
				}
			}
		}
		alter(t, key, v)
		d := Diff(base, other)
		if len(d) != 1 || d[0].Key != key || d[0].Live != Live(key) {
			t.Errorf("%s: %+v", key, d)
			return
		}
		if secret := isSecret(key); secret != (d[0].From == "" && d[0].To == "") {
			t.Errorf("%s: shown as %q, %q", key, d[0].From, d[0].To)
		}
		if base.Hash() == other.Hash() {
			t.Errorf("%s: the hash is the same", key)
		}
		err := NotLive(d)
		if (err == nil) != Live(key) || err != nil && (!strings.Contains(err.Error(), key) || !errors.Is(err, sdk.ErrUnsupported)) {
			t.Errorf("%s: %v", key, err)
		}
	})
	for _, key := range live {
		if !seen[key] {
			t.Errorf("%q is live and no key", key)
		}
	}
}

// alter gives a setting another value.
func alter(t *testing.T, key string, v reflect.Value) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *string:
		*x += "x"
	case *int:
		*x++
	case *float64:
		*x /= 2
	case *bool:
		*x = !*x
	case *time.Duration:
		*x += time.Second
	case *any:
		*x = "layer"
	case *[]string:
		*x = append(slices.Clone(*x), "x")
	case *[]Remote:
		*x = append(slices.Clone(*x), Remote{Group: "x"})
	case *map[string]string:
		*x = map[string]string{"seed": "7"}
	case *[]Override:
		*x = []Override{{Layers: "all", Experts: 1, Backend: "ref"}}
	case *[]Rate:
		*x = []Rate{{Role: "user", Requests: 60}}
	case *[]AlertOverride:
		*x = []AlertOverride{{Rule: "PimoeCPUHigh", Off: true}}
	default:
		t.Fatalf("%s: a type that this test does not know: %T", key, x)
	}
}

// TestHashHidesSecrets: whether a key is set is part of the hash, which key is not.
func TestHashHidesSecrets(t *testing.T) {
	a, b, none := Default(), Default(), Default()
	a.APIKey, b.APIKey = "one", "two"
	if a.Hash() != b.Hash() || a.Hash() == none.Hash() {
		t.Errorf("hashes %s, %s and without a key %s", a.Hash(), b.Hash(), none.Hash())
	}
	d := Diff(a, b)
	if len(d) != 1 || d[0] != (Change{Key: "api_key"}) {
		t.Errorf("another secret: %+v", d)
	}
}

// TestDiffSeesInside: an override that differs in one field, and one more of them, are changes of experts.overrides.
func TestDiffSeesInside(t *testing.T) {
	one, other, two := Default(), Default(), Default()
	one.Experts.Overrides = []Override{{Layers: "all", Experts: []any{1, "3-4"}, Backend: "ref"}}
	other.Experts.Overrides = []Override{{Layers: "all", Experts: []any{1, "3-5"}, Backend: "ref"}}
	two.Experts.Overrides = slices.Concat(one.Experts.Overrides, other.Experts.Overrides)
	for name, to := range map[string]Config{"a field": other, "one more": two} {
		d := Diff(one, to)
		if len(d) != 1 || d[0].Key != "experts.overrides" || strings.Contains(d[0].To, "\n") {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
