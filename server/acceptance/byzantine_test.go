package acceptance

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/host"
)

// fate is what must become of a process that lies.
type fate string

const (
	atOnce    fate = "quarantined" // each lie is recognised: none reaches a client, and the third is the last
	byRecheck fate = "caught"      // only re-execution finds it
	replaced  fate = "replaced"    // by a fresh process, as often as it takes
	outlived  fate = "outlived"    // by a hedge, or because it harms nobody
	lockedOut fate = "not let in"  // a fresh process does not pass the test
)

// fates has every lie that the plugin can tell.
var fates = map[string]fate{
	"nan": atOnce, "nan-quiet-last": atOnce, "nan-loud": atOnce, "inf": atOnce, "inf-minus-last": atOnce,
	"row-forgotten": atOnce, "half-written": atOnce, "not-written": atOnce,
	"error-no-class": atOnce, "error-invalid": atOnce, "error-unsupported": atOnce, "error-not-found": atOnce, "error-overloaded": atOnce,
	"error-deadline": atOnce, "error-cancelled": atOnce, "error-confessed": atOnce, "error-huge": atOnce, "error-controls": atOnce,
	"status-unknown": atOnce, "message-huge": atOnce, "rows-fewer": atOnce, "rows-more": atOnce, "rows-huge": atOnce,
	"columns-fewer": atOnce, "columns-more": atOnce, "columns-none": atOnce,
	"generation-zero": atOnce, "generation-before": atOnce, "generation-future": atOnce, "generation-twisted": atOnce,
	"done-ahead": atOnce, "done-behind": atOnce, "done-far": atOnce, "done-early": atOnce,
	"flicker-values": outlived, "flicker-rows": outlived, "flicker-generation": outlived, "flicker-status": outlived, "scribble-others": outlived,
	"exit": replaced, "exit-halfway": replaced, "killed": replaced, "stopped": replaced, "panic": replaced, "error-unavailable": replaced,
	"hang": outlived, "hang-all": outlived, "slow": outlived, "late": outlived, "answer-twice": outlived,
	"test-nan": lockedOut, "test-wrong": lockedOut,
	"zero": byRecheck, "constant": byRecheck, "subnormal": byRecheck, "huge": byRecheck, "largest": byRecheck, "sign": byRecheck,
	"scaled": byRecheck, "bit-of-each": byRecheck, "one-bit": byRecheck, "bit-in-10000": byRecheck, "float16": byRecheck, "float23": byRecheck,
	"last-value": byRecheck, "stale": byRecheck, "echo": byRecheck, "rows-swapped": byRecheck, "rows-shifted": byRecheck, "rows-all-same": byRecheck,
	"other-layer": byRecheck, "other-weights": byRecheck, "many-rows": byRecheck, "one-layer": byRecheck, "seldom": byRecheck, "after-done": byRecheck,
}

// recheckOneIn is how many calls there are to one that is repeated, in these tests.
const recheckOneIn = 4

// court is a running server whose only expert group is the byzantine plugin.
type court struct {
	*program
	orders  string // the plugin's file
	honest  int    // number of the process that never lies; 0 = none
	inputs  [][]byte
	answers [][]byte // the honest ones
	turn    int
}

func newCourt(t *testing.T, replicas int) *court {
	t.Helper()
	dir := home(t)
	plugin := build(t, dir, "byzantine", "pimoe-expert-byzantine")
	listed, err := exec.Command(plugin, "lies").Output()
	if err != nil {
		t.Fatal(err)
	}
	if told := strings.Fields(string(listed)); len(told) != len(fates) || len(told) < 40 || slices.ContainsFunc(told, func(name string) bool { return fates[name] == "" }) {
		t.Fatalf("the plugin tells %d lies, %d are known here: %v", len(told), len(fates), told)
	}
	settings := fmt.Sprintf(`
experts:
  group: {all: [{layers: all, experts: all}]}
  replicas: %d
  recheck_by: host
  recheck_one_in: %d
  overrides: [{layers: all, experts: all, plugin: %s}]
plugins: {dev: true, confine: "off"} # it takes its orders from a file
limits: {request_timeout: 20s}
log: {level: warn}
`, replicas, recheckOneIn, plugin)
	file := filepath.Join(dir, "pimoe.yaml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &court{program: launch(t, filepath.Join(dir, "home"), "--config", file), orders: filepath.Join(dir, "orders")}
	c.ready(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", c.stderr)
		}
	})
	for n := range 8 {
		c.inputs = append(c.inputs, rowsOf(uint64(n), 1+3*n))
	}
	for range 100 { // so that it is known how long calls take
		for n := range c.inputs {
			status, answer := c.ask(t, n)
			if status != http.StatusOK {
				t.Fatalf("honest: %d %s", status, answer)
			}
			if len(c.answers) <= n {
				c.answers = append(c.answers, answer)
			} else if !bytes.Equal(answer, c.answers[n]) {
				t.Fatal("honest processes differ")
			}
		}
	}
	if replicas > 1 {
		c.honest = c.status(t)[replicas-1].PID
	}
	return c
}

// tinyHidden and tinyLayers are those of pimoe-tiny; all of its layers have experts.
const tinyHidden, tinyLayers = 256, 6

// rowsOf are hidden states as bytes.
func rowsOf(seed uint64, rows int) []byte {
	rng := rand.New(rand.NewPCG(seed, 7))
	var b []byte
	for range rows * tinyHidden {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(rng.NormFloat64())))
	}
	return b
}

// ask sends the n-th input through the n-th layer.
func (c *court) ask(t *testing.T, n int) (status int, answer []byte) {
	t.Helper()
	return c.send(t, c.inputs[n], fmt.Sprintf("layer=%d", n%tinyLayers))
}

func (c *court) send(t *testing.T, rows []byte, layers string) (status int, answer []byte) {
	t.Helper()
	url := fmt.Sprintf("%s/api/v1/process?shape=1,%d,%d&%s", c.url, len(rows)/4/tinyHidden, tinyHidden, layers)
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(rows))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Accept", "application/octet-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

// next asks the next question, and reports whether the answer was right.
func (c *court) next(t *testing.T) (status int, answer []byte, right bool) {
	t.Helper()
	n := c.turn % len(c.inputs)
	c.turn++
	status, answer = c.ask(t, n)
	return status, answer, status == http.StatusOK && bytes.Equal(answer, c.answers[n])
}

func (c *court) status(t *testing.T) []host.Status {
	t.Helper()
	resp, err := http.Get(c.admin + "/admin/experts")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct{ Experts []host.Status }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	return list.Experts
}

// order tells the processes how to lie; the empty string ends it.
func (c *court) order(t *testing.T, lie string) {
	t.Helper()
	if err := os.WriteFile(c.orders+".new", fmt.Appendf(nil, "%s %d", lie, c.honest), 0o600); err != nil {
		t.Fatal(err)
	}
	if lie == "" {
		if err := os.Remove(c.orders); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return
	}
	if err := os.Rename(c.orders+".new", c.orders); err != nil {
		t.Fatal(err)
	}
}

// pardon ends the lying and brings the liar, replica 0, back with a clean record and a fresh process.
func (c *court) pardon(t *testing.T) {
	t.Helper()
	c.order(t, "")
	liar := c.status(t)[0]
	if liar.Health == "quarantined" {
		out, err := exec.Command(c.cmd.Path, "experts", "release", liar.Group+"/0", "--admin", c.admin).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "1 released") {
			t.Fatalf("release: %v %s", err, out)
		}
	} else if liar.PID != 0 { // it may hang in what it was told
		syscall.Kill(liar.PID, syscall.SIGKILL)
	}
	c.until(t, "the pardoned replica is ready", func(s host.Status) bool { return s.Health == "ready" && s.PID != liar.PID })
	for range 4 { // whose process has worked is restarted at once the next time
		if status, answer, right := c.next(t); !right {
			t.Fatalf("after the pardon: %d, %.200q", status, answer)
		}
	}
}

// until waits for a state of the liar. A replica that ended again and again before its first answer is tried after a minute.
func (c *court) until(t *testing.T, what string, is func(host.Status) bool) host.Status {
	t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		s := c.status(t)[0]
		if is(s) {
			return s
		}
		if time.Since(began) > 90*time.Second {
			t.Fatalf("%s: not after %v: %+v", what, time.Since(began), s)
		}
	}
}

// requests is how many each lie is tried with.
func requests() int { return rounds("PIMOE_BYZANTINE_REQUESTS", 12) }

// thorough says that this is the long run.
func thorough() bool { return os.Getenv("PIMOE_BYZANTINE_REQUESTS") != "" }

// slow are lies that take many seconds: until a call counts as hung, or a process's start as failed.
var slow = []string{"hang", "hang-all", "late"}

// lieNames are the lies with one of some fates, in order. The slow ones wait for the long run.
func lieNames(of ...fate) []string {
	var names []string
	for name, f := range fates {
		if slices.Contains(of, f) && (thorough() || !slices.Contains(slow, name)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestByzantine: one of two replicas lies in every way that it knows. No lie that can be recognised reaches a client, the liar
// is out after the third, and the honest replica answers everything as if nothing were.
func TestByzantine(t *testing.T) {
	t.Parallel() // mostly it waits
	c := newCourt(t, 2)
	of := []fate{atOnce, replaced, outlived}
	if thorough() {
		of = append(of, lockedOut)
	}
	for _, lie := range lieNames(of...) {
		t.Run(lie, func(t *testing.T) {
			before := c.status(t)
			c.order(t, lie)
			came := func(s host.Status) bool { // to what it must
				switch fates[lie] {
				case atOnce:
					return s.Health == "quarantined" && s.State == "quarantined" && s.Quarantine != ""
				case replaced:
					return s.Restarts > before[0].Restarts || s.State == "failed"
				case lockedOut:
					return s.PID == 0 && s.State != "ready"
				}
				return s.Calls+s.Errors > before[0].Calls+before[0].Errors
			}
			began := time.Now()
			for n := 0; n < requests() || !came(c.status(t)[0]); n++ {
				if status, answer, right := c.next(t); !right {
					t.Fatalf("request %d: %d, %.200q", n, status, answer)
				}
				if time.Since(began) > 60*time.Second {
					t.Fatalf("after %d requests: %+v", n, c.status(t)[0])
				}
			}
			// Beside the third lie there may be calls on their way, on each of two lanes, which are lies too or end with the process.
			if s := c.status(t)[0]; fates[lie] == atOnce && s.Errors-before[0].Errors > 6 {
				t.Errorf("%d lies, status %+v", s.Errors-before[0].Errors, s)
			}
			c.checkHonest(t, before[1])
			c.pardon(t)
		})
	}
	if n := seriesSum(c.metrics(t), "pimoe_expert_nonfinite_total"); n < 3*5 { // five lies about values, each told until it was out
		t.Errorf("%v answers with a NaN or an infinity were counted", n)
	}
	eventually(t, "the errors of units", func() bool { return seriesSum(c.metrics(t), "pimoe_unit_errors_total") > 0 })
}

// checkHonest: the honest replica has done nothing but work. It may have been slow.
func (c *court) checkHonest(t *testing.T, before host.Status) {
	t.Helper()
	if s := c.status(t)[1]; s.Health != "ready" && s.Health != "suspect" || s.PID != c.honest || s.Errors != before.Errors {
		t.Errorf("the honest replica: %+v", s)
	}
}

// TestByzantinePlausible: numbers that could be right are found out by re-execution, within the bound that the share of repeated
// calls gives, and never after that.
func TestByzantinePlausible(t *testing.T) {
	t.Parallel() // mostly it waits
	for _, replicas := range []int{2, 1} {
		t.Run(fmt.Sprintf("replicas=%d", replicas), func(t *testing.T) {
			c := newCourt(t, replicas)
			names := lieNames(byRecheck)
			if replicas == 1 && !thorough() {
				names = []string{"one-bit", "other-weights"}
			}
			// In a request with a wrong answer at least one lie has been told, which was found with this chance: of 1000 lies, 999 are
			// found within so many. Some more pass while the repeated call waits and is computed.
			bound := int(math.Ceil(math.Log(0.001)/math.Log(1-1./recheckOneIn))) + 8
			total := 0
			for _, lie := range names {
				t.Run(lie, func(t *testing.T) {
					wrong := 0
					for try := range 2 { // one in 1000 twice is a fault
						if wrong = c.convict(t, lie); wrong <= bound {
							break
						}
						t.Logf("try %d: %d wrong answers, bound %d", try, wrong, bound)
					}
					t.Logf("measured: %d wrong answers before it was found", wrong)
					if total += wrong; wrong > bound {
						t.Errorf("found after %d wrong answers, twice above %d", wrong, bound)
					}
				})
			}
			t.Logf("measured: %.1f wrong answers on average", float64(total)/float64(len(names)))
		})
	}
}

// convict has the liar lie until it is found out, and returns how many wrong answers there were.
func (c *court) convict(t *testing.T, lie string) (wrong int) {
	t.Helper()
	before := c.status(t)
	c.order(t, lie)
	const most = 20000
	for n := 0; c.status(t)[0].Health != "quarantined"; n++ {
		if n == most {
			t.Fatalf("not found in %d requests, %d of them with wrong answers", most, wrong)
		}
		if status, _, right := c.next(t); !right && (status == http.StatusOK) {
			wrong++
		}
	}
	s := c.until(t, "gone", func(s host.Status) bool { return s.PID == 0 })
	if !strings.Contains(s.Quarantine, "other numbers") {
		t.Errorf("cause %q", s.Quarantine)
	}
	for range requests() {
		status, answer, right := c.next(t)
		if down := len(before) == 1 && status == http.StatusServiceUnavailable && strings.Contains(string(answer), "quarantined"); !right && !down {
			t.Fatalf("after the quarantine: %d, %.200q", status, answer)
		}
	}
	if len(before) > 1 {
		c.checkHonest(t, before[1])
	}
	c.pardon(t)
	return wrong
}

// TestByzantineAlone: without another replica a client gets the right answer or none, and the group says why.
func TestByzantineAlone(t *testing.T) {
	t.Parallel() // mostly it waits
	c := newCourt(t, 1)
	names := []string{"nan-quiet-last", "error-invalid", "error-controls", "error-deadline", "generation-future", "rows-more", "done-early"}
	if thorough() {
		names = lieNames(atOnce)
	}
	names = append(names, "exit-halfway") // the last: what ends before its first answer is not tried again for a minute
	for _, lie := range names {
		t.Run(lie, func(t *testing.T) {
			before := c.status(t)[0]
			c.order(t, lie)
			for n := 0; n < requests() || fates[lie] == atOnce && c.status(t)[0].State != "quarantined" && n < 10000; n++ {
				status, answer, right := c.next(t)
				if right {
					continue
				}
				var said struct{ Code, Detail string }
				if err := json.Unmarshal(answer, &said); err != nil || status != http.StatusBadGateway && status != http.StatusServiceUnavailable ||
					said.Code != "invalid_expert_output" && said.Code != "expert_unavailable" || strings.Contains(said.Detail, "silly") {
					t.Fatalf("request %d: %d, %.300q", n, status, answer)
				}
				if n > 10 && fates[lie] == atOnce && !strings.Contains(said.Detail, "quarantined") {
					t.Fatalf("request %d: %d, %.300q", n, status, answer)
				}
			}
			if s := c.status(t)[0]; fates[lie] == atOnce && (s.Health != "quarantined" || s.PID != 0 || s.Errors-before.Errors > 6) {
				t.Errorf("status %+v", s)
			}
			if fates[lie] == atOnce {
				c.pardon(t)
			}
		})
	}
}

// TestHungCall: a process that beats and answers its tests, but not one call, is replaced while a client waits for it.
func TestHungCall(t *testing.T) {
	t.Parallel() // mostly it waits
	c := newCourt(t, 1)
	c.order(t, "hang")
	time.AfterFunc(2*time.Second, func() { os.Remove(c.orders) }) // the call that hangs has begun
	began := time.Now()
	if status, answer, right := c.next(t); !right {
		t.Fatalf("%d, %.200q", status, answer)
	}
	t.Logf("measured: answered by the next process after %v", time.Since(began))
	if s := c.status(t)[0]; s.LastDeath == nil || !strings.Contains(s.LastDeath.Cause, "hung") {
		t.Errorf("status %+v with last death %+v", s, s.LastDeath)
	}
}

// TestPoisonedRows: rows that no float32 can hold the answer to are their sender's trouble. Nobody is blamed for them.
func TestPoisonedRows(t *testing.T) {
	t.Parallel() // mostly it waits
	c := newCourt(t, 1)
	before := c.status(t)[0]
	for _, v := range []float32{3e38, -1e30, 1e20} {
		var b []byte
		for range 4 * tinyHidden {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		for range 4 {
			if status, answer := c.send(t, b, "all_layers=true"); status != http.StatusBadGateway && status != http.StatusUnprocessableEntity {
				t.Fatalf("rows of %g: %d, %.200q", v, status, answer)
			}
		}
	}
	if s := c.status(t)[0]; s.Health != "ready" || s.PID != before.PID {
		t.Errorf("status %+v", s)
	}
	if status, answer, right := c.next(t); !right {
		t.Errorf("the next client gets %d, %.200q", status, answer)
	}
}
