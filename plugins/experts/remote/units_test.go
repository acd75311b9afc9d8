package remote

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
)

func TestUnits(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"all", "0.0 0.1 0.2 2.0 2.1 2.2 5.0 5.1 5.2"},
		{"all:1", "0.1 2.1 5.1"},
		{"0-2:0,2; 5:all", "0.0 0.2 2.0 2.2 5.0 5.1 5.2"},
		{"2:1;2:1", "2.1"},
		{"1:0", "layers with experts are 0 to 5"}, {"0:3", "experts are 0 to 2"}, {"0-6:0", "layers with experts"}, {"0", "LAYERS:EXPERTS"}, {"", "LAYERS:EXPERTS"},
		{"x:0", "layers with experts"}, {"0:2-1", "experts are"}, {"-1:0", "layers with experts"},
	} {
		units, err := parseUnits(c.text, []int{0, 2, 5}, 3)
		var got []string
		for _, u := range units {
			got = append(got, fmt.Sprintf("%d.%d", u.Layer, u.Expert))
		}
		if text := strings.Join(got, " "); err == nil && text != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %s %v, want %s", c.text, text, err, c.want)
		}
	}
}

// TestActivation: the model's activation is the one that the host reads out of the same file.
func TestActivation(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join(filepath.Dir(coretest.Golden(t, "models", "qwen3_moe")), "*", "config.json"))
	if err != nil || len(folders) < 2 {
		t.Fatalf("%d models: %v", len(folders), err)
	}
	for _, path := range folders {
		dir := filepath.Dir(path)
		c, err := model.ReadConfig(dir)
		if err != nil {
			continue // the host can't serve it, either
		}
		if got, err := activation(dir); err != nil || got != c.Activation {
			t.Errorf("%s: %q %v, the host reads %q", dir, got, err, c.Activation)
		}
	}
	dir := t.TempDir()
	for text, want := range map[string]string{`{"hidden_act": "relu"}`: "relu", `{`: "config.json"} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := activation(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestFlags: a command that can't serve says why, and ends.
func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--nothing", 2, "flag provided but not defined"}, {"more", 2, "want flags only"}, {"-h", 0, "-tls-cert"},
		{"--store " + t.TempDir(), 1, "not in the store"}, {"--store= ", 1, "no folder"},
	} {
		var out, errs bytes.Buffer
		code := run(context.Background(), append([]string{"pimoe-expert-ref", "serve"}, strings.Fields(c.args)...), ffn.New(ref.New(), ffn.Options{}), &out, &errs)
		if code != c.code || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%s: %d %s", c.args, code, &errs)
		}
	}
}
