package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Peer is another program that measures itself: Command, run by the shell, prints one JSON line for each run.
type Peer struct{ Command string }

// Figures are what a peer prints; 0 = not measured.
type Figures struct {
	Name           string  `json:"name"` // how the report calls it
	PrefillTPS     float64 `json:"prefill_tps"`
	DecodeTPS      float64 `json:"decode_tps"`
	DecodeTPS8     float64 `json:"decode_tps_8"`
	DecodeTPS32    float64 `json:"decode_tps_32"`
	BytesPerWeight float64 `json:"bytes_per_weight"` // as stored, scales included
}

// PeerWorkloads is the variable that tells a peer which workloads count, so that it can leave out the others.
const PeerWorkloads = "PIMOE_BENCH_WORKLOADS"

// peerTime bounds one run of a peer: several times what a slow model of a few gigabytes takes.
const peerTime = 10 * time.Minute

// run runs the peer once.
func (p Peer) run(ctx context.Context, workloads []Workload) (Figures, error) {
	var f Figures
	var names []string
	for _, w := range workloads {
		names = append(names, w.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", p.Command)
	cmd.Env = append(os.Environ(), PeerWorkloads+"="+strings.Join(names, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that what the shell has started ends with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	if err := cmd.Run(); err != nil {
		return f, fmt.Errorf("peer %q: %w: %s", p.Command, err, lastLine(stderr.String()))
	}
	line := lastLine(stdout.String())
	if err := json.Unmarshal([]byte(line), &f); err != nil || f.PrefillTPS < 0 || f.DecodeTPS < 0 {
		return f, fmt.Errorf("peer %q printed %.200q: want a JSON line with prefill_tps and decode_tps: %w", p.Command, line, sdk.ErrInvalidOutput)
	}
	return f, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// of are the two rates that stand against a workload; 0 where the peer measured nothing comparable.
func (f Figures) of(w Workload) (prefill, decode float64) {
	if w.Layer {
		return 0, 0
	}
	if w.Parallel == 1 && w.Prompt >= w.Gen {
		prefill = f.PrefillTPS
	}
	if w.Gen > 1 {
		decode = map[int]float64{1: f.DecodeTPS, 8: f.DecodeTPS8, 32: f.DecodeTPS32}[w.Parallel]
	}
	return prefill, decode
}
