package acceptance

import (
	"net/http"
	"slices"
	"syscall"
	"testing"

	"github.com/pimoe/pimoe/server/replay"
)

// record asks for a traced answer.
func (c *crippled) record(t *testing.T) *replay.Record {
	t.Helper()
	a := c.ask(t, openings[0], `,"pimoe":{"trace":true}`)
	if a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r, err := replay.Parse(a.body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// processOf is the process of a group in a record; it fails the test if there are several.
func processOf(t *testing.T, r *replay.Record, group string) replay.Process {
	t.Helper()
	var out []replay.Process
	for _, p := range r.Processes {
		if p.Group == group {
			out = append(out, p)
		}
	}
	if len(out) != 1 {
		t.Fatalf("%d processes of group %s in %+v", len(out), group, r.Processes)
	}
	return out[0]
}

// restarted kills a process that comes back: the trace names the new one, and nothing else has changed.
func (c *crippled) restarted(t *testing.T) {
	t.Helper()
	was := c.record(t)
	pid, _ := c.group(t, "e0")
	if p := processOf(t, was, "e0"); p.PID != pid || p.Backend != "cpu" || p.Class != "bf16w-f32" || p.Program == "" {
		t.Errorf("the trace has %+v, the host says %d", p, pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	now := c.record(t)
	fresh, _ := c.group(t, "e0")
	if !slices.ContainsFunc(now.Processes, func(p replay.Process) bool { return p.Group == "e0" && p.PID == fresh }) || fresh == pid {
		t.Errorf("after the restart the trace has %+v, the host says %d", now.Processes, fresh)
	}
	if d := replay.Compare(was, now); !d.Same || len(d.Changes) > 0 {
		t.Errorf("after a restart: %+v", d)
	}
}

// traced asks for a trace while expert 3 is gone: it says for each token what was done about that.
func (c *crippled) traced(t *testing.T, status, policy string) {
	t.Helper()
	r := c.record(t)
	hits := 0
	for i, tok := range r.Runs[0].Tokens {
		for _, l := range tok.Layers {
			for _, e := range l.Experts {
				if e.Expert != victim {
					if e.Process < 0 || e.Instead != nil {
						t.Errorf("token %d layer %d: %+v", i, l.Layer, e)
					}
					continue
				}
				hits++
				switch ok := e.Process >= 0; {
				case policy == "renormalise" && (ok || e.Instead != nil),
					policy == "fallback" && (!ok || r.Processes[e.Process].Class != "int8g32" || e.Instead != nil),
					policy == "substitute" && (!ok || r.Processes[e.Process].Group != "e5" || e.Instead == nil || *e.Instead != 5):
					t.Errorf("token %d layer %d under %s: %+v of %+v", i, l.Layer, policy, e, r.Processes)
				}
			}
		}
		if hits > 0 && (tok.Quality == nil || tok.Quality.Status != status || tok.Quality.Policy != policy) {
			t.Errorf("token %d: %+v, want %s by %s", i, tok.Quality, status, policy)
		}
	}
	if hits == 0 {
		t.Error("no token was routed to the lost expert")
	}
}
