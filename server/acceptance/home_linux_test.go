package acceptance

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// load asks for answers until the function that it returns is called, and counts them. One that fails is an error.
func (p *program) load(t *testing.T) (answers *atomic.Int64, stop func()) {
	answers = &atomic.Int64{}
	end := make(chan struct{})
	var group sync.WaitGroup
	for n := range 2 {
		group.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if _, err := p.complete(n == 0); err != nil {
					t.Errorf("an answer failed: %v", err)
				}
				answers.Add(1)
			}
		})
	}
	stop = sync.OnceFunc(func() { close(end); group.Wait() })
	t.Cleanup(stop) // before the server's end
	return answers, stop
}

// job asks for a job with a long prompt, and returns the status.
func (p *program) job(t *testing.T) int {
	t.Helper()
	body := `{"kind":"completion","request":{"model":"pimoe-tiny","max_tokens":1,"prompt":"` + strings.Repeat("word ", 200) + `"}}`
	status, _, err := p.ask(http.MethodPost, "/api/v1/jobs", "", body)
	if err != nil && status != http.StatusServiceUnavailable {
		t.Fatal(err)
	}
	return status
}

// X10: the disk of the home is full. Every answer goes on; the alarm, a figure and a line of the log, comes within a second, and
// the guide's command names the cause; with room again jobs go on without a restart.
func TestFullHome(t *testing.T) {
	folder := home(t)
	p, seen := onDisk(t, `mount -t tmpfs -o size=128m,mode=700 none "$0"`, folder, folder)
	if got := p.metric(t, "pimoe_home_writable"); got != "1" {
		t.Fatalf("at first: %q", got)
	}
	if status := p.job(t); status != 202 {
		t.Fatalf("a job at first: %d", status)
	}
	answers, stop := p.load(t)
	filler, err := os.Create(filepath.Join(seen, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; size /= 16 {
		for err = nil; err == nil; {
			_, err = filler.Write(make([]byte, size))
		}
	}
	filler.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	began := time.Now()
	wait(t, "the alarm", func() bool {
		return p.metric(t, "pimoe_home_writable") == "0" && strings.Contains(p.stderr.String(), "home can't be written")
	})
	t.Logf("alarm after %s", time.Since(began))
	refused := false
	for range 100 { // the file may still have free pages
		if status := p.job(t); status == 503 {
			refused = true
			break
		} else if status != 202 {
			t.Fatalf("a job while the disk is full: %d", status)
		}
	}
	if !refused {
		t.Error("no job was refused")
	}
	for _, s := range symptoms(t) {
		if provoked[s.name] != nil {
			continue
		}
		doctor := &patient{T: t, dir: t.TempDir(), home: seen, env: []string{"PIMOE_PLUGINS__DIR=" + coretest.Binaries(t)}}
		if out := doctor.run(strings.Fields(strings.TrimPrefix(s.command, "pimoe "))...); !strings.Contains(out, s.says) {
			t.Errorf("%s: %s prints\n%s", s.name, s.command, out)
		}
	}
	before := answers.Load()
	wait(t, "answers while the disk is full", func() bool { return answers.Load() > before+4 })
	if err := os.Remove(filepath.Join(seen, "filler")); err != nil {
		t.Fatal(err)
	}
	wait(t, "the end of the alarm", func() bool {
		return p.metric(t, "pimoe_home_writable") == "1" && strings.Contains(p.stderr.String(), "home can be written again")
	})
	wait(t, "a job with room again", func() bool { return p.job(t) == 202 })
	stop()
	if n := strings.Count(p.stderr.String(), "home can't be written"); n != 1 {
		t.Errorf("said %d times", n)
	}
	t.Logf("%d answers", answers.Load())
}

// X10: the home is on a disk that can't be written at all. The server answers, and says what it can't do.
func TestReadOnlyHome(t *testing.T) {
	full := home(t)
	made := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), "generate", "--max-tokens", "1", "x")
	made.Env = append(os.Environ(), "PIMOE_HOME="+full)
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	folder := home(t)
	p, _ := onDisk(t, `mount --bind "`+full+`" "$0" && mount -o remount,bind,ro "$0"`, folder, folder)
	answers, stop := p.load(t)
	if got := p.metric(t, "pimoe_home_writable"); got != "0" || !strings.Contains(p.stderr.String(), "the file system is read-only") {
		t.Errorf("%q\n%s", got, p.stderr)
	}
	if status := p.job(t); status != 503 {
		t.Errorf("a job: %d", status)
	}
	if status, body := p.change(t, "e3", "release", "{}"); status != 503 || !strings.Contains(body, "audit_unavailable") {
		t.Errorf("a change: %d %s", status, body)
	}
	wait(t, "answers", func() bool { return answers.Load() > 4 })
	stop()
}
