package acceptance

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
)

// chaos runs `pimoe chaos` with its own store and returns its report and exit code.
func chaos(t *testing.T, args ...string) (report map[string]any, code int, stderr string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("chaos needs /proc")
	}
	cmd := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), append(append([]string{"chaos"}, args...), "-o", "json")...)
	dir := home(t)
	cmd.Env = append(os.Environ(), "PIMOE_HOME="+dir, "TMPDIR="+dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("measured: %.700s", out.String())
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("pimoe chaos %v: %v\nstdout: %s\nstderr: %s", args, err, &out, &errs)
	}
	return report, cmd.ProcessState.ExitCode(), errs.String()
}

// number is a figure of a report, such as "injected.kill"; 0 if there is none.
func number(report map[string]any, path string) float64 {
	at, rest, deeper := strings.Cut(path, ".")
	if deeper {
		inner, _ := report[at].(map[string]any)
		return number(inner, rest)
	}
	n, _ := report[at].(float64)
	return n
}

// TestChaos hurts experts and router of a server with two replicas in every way there is, by a schedule and in pairs: no
// answer is wrong, lost or refused, every death that was made is noticed, and there are no others.
func TestChaos(t *testing.T) {
	for name, args := range map[string][]string{
		"schedule": {"--kill", "4", "--stop", "1", "--slow", "1", "--corrupt", "1", "--oom", "0.5", "--router", "1", "--for", "3s", "--calm", "500ms", "--seed", "3"},
		"pairs":    {"--pairs", "6", "--calm", "500ms", "--seed", "20"},
	} {
		t.Run(name, func(t *testing.T) {
			r, code, stderr := chaos(t, args...)
			if code != 0 || number(r, "wrong")+number(r, "lost")+number(r, "failed") != 0 || number(r, "requests") < 20 {
				t.Errorf("exit code %d, %s", code, stderr)
			}
			fired := 0.0
			for _, kind := range []string{"kill", "stop", "oom", "router"} {
				fired += number(r, "injected."+kind)
				if number(r, "detected."+kind) != number(r, "injected."+kind) {
					t.Errorf("%s: %g made, %g noticed", kind, number(r, "injected."+kind), number(r, "detected."+kind))
				}
			}
			if fired < 5 {
				t.Errorf("only %g faults", fired)
			}
		})
	}
}

// TestChaosSees: the program that judges finds an answer with one other letter, and a request without an outcome.
func TestChaosSees(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "records")
	if r, code, stderr := chaos(t, "--router", "2", "--for", "1s", "--calm", "0s", "--seed", "5", "--keep", dir); code != 0 {
		t.Fatalf("exit code %d, %v, %s", code, r, stderr)
	}
	book, err := os.ReadFile(filepath.Join(dir, "ledger.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var asked int
	var answered []string
	for line := range strings.Lines(string(book)) {
		switch {
		case strings.Contains(line, `"event":"asked"`):
			asked++
		case strings.Contains(line, `"event":"answered"`):
			answered = append(answered, line)
		}
	}
	if asked == 0 || len(answered) != asked {
		t.Fatalf("%d requests, %d answers", asked, len(answered))
	}
	for name, c := range map[string]struct{ other, counts string }{
		"wrong": {strings.Replace(answered[0], `"text":"`, `"text":"x`, 1), "wrong"},
		"lost":  {"", "lost"},
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(strings.Replace(string(book), answered[0], c.other, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		out, err := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), "chaos", "judge", path, filepath.Join(dir, "oracle.jsonl")).Output()
		if err := errors.Join(err, json.Unmarshal(out, &v)); err != nil {
			t.Fatal(err)
		}
		if number(v, "requests") != float64(asked) || number(v, "wrong")+number(v, "lost")+number(v, "failed") != 1 || number(v, c.counts) != 1 {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// TestChaosHost kills servers during their start, under load and in a reload: nothing of them is left.
func TestChaosHost(t *testing.T) {
	r, code, stderr := chaos(t, "host", "--times", "9", "--seed", "2")
	if code != 0 || number(r, "in_start") == 0 || number(r, "under_load") == 0 || number(r, "in_reload") == 0 || number(r, "gone_ms.count") != 9 {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

// TestChaosSoak: requests and restarts leave a server as it was, as far as that can be counted.
func TestChaosSoak(t *testing.T) {
	t.Parallel() // it rests for a good part of its time
	r, code, stderr := chaos(t, "soak", "--requests", "100", "--restarts", "2", "--replicas", "1")
	if code != 0 || number(r, "restarts") < 2 || number(r, "requests") < 100 {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
