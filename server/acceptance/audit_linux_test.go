package acceptance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"github.com/pimoe/pimoe/server/audit"
)

// onSmallDisk starts a server that alone sees a file system of 1 MiB at folder. The path through which the test sees it is
// returned.
func onSmallDisk(t *testing.T, store, folder string, args ...string) (p *program, seen string) {
	t.Helper()
	return onDisk(t, `mount -t tmpfs -o size=1m,mode=700 none "$0"`, store, folder, args...)
}

// onDisk is the same for what a line of the shell makes of the folder, $0.
func onDisk(t *testing.T, mount, store, folder string, args ...string) (p *program, seen string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	p = &program{stderr: &safeBuffer{}, exited: make(chan struct{})}
	addr, admin := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	p.url, p.admin = "http://"+addr, "http://"+admin
	script := `mount --make-rprivate / && ` + mount + ` && exec "$@"`
	p.cmd = exec.Command("unshare", append([]string{"-m", "sh", "-c", script, folder, filepath.Join(coretest.Binaries(t), "pimoe"),
		"serve", "--addr", addr, "--admin-addr", admin}, args...)...)
	p.cmd.Env = append(os.Environ(), "PIMOE_HOME="+store)
	p.cmd.Stdout, p.cmd.Stderr = p.stderr, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Skipf("unshare: %v", err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.exited })
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.exited:
			if strings.Contains(p.stderr.String(), "unshare:") || strings.Contains(p.stderr.String(), "mount:") {
				t.Skipf("this system lets nobody mount: %s", p.stderr)
			}
			t.Fatalf("ended: %v\n%s", p.err, p.stderr)
		default:
		}
		if r, err := http.Get(p.url + "/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return p, fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, folder)
			}
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("not ready: %s", p.stderr)
		}
	}
}

// change asks for a change of a group.
func (p *program) change(t *testing.T, group, what, body string) (int, string) {
	t.Helper()
	r, err := http.Post(p.admin+"/admin/experts/"+group+"/"+what, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// X10: the disk of the audit log is full. Every answer goes on, changes are refused, the log says so within a second; when
// there is room again changes go on without a restart. At the end the log is whole.
func TestFullAuditDisk(t *testing.T) {
	store, folder := t.TempDir(), filepath.Join(t.TempDir(), "audit")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	p, seen := onSmallDisk(t, store, folder, "--set", "audit.file="+filepath.Join(folder, "audit.jsonl"))
	stop, failed, answers := make(chan struct{}), atomic.Int64{}, atomic.Int64{}
	var load sync.WaitGroup
	for n := range 2 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := p.complete(n == 0); err != nil {
					failed.Add(1)
					t.Errorf("an answer failed: %v", err)
				}
				answers.Add(1)
			}
		})
	}
	expect := func(when string, status int, code string) {
		t.Helper()
		if got, body := p.change(t, "e3", "swap", `{"backend":"ref"}`); got != status || !strings.Contains(body, code) {
			t.Errorf("%s: %d %s", when, got, body)
		}
	}
	expect("at first", 200, "drained_ns")
	filler, err := os.Create(filepath.Join(seen, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 64 << 10; size > 0; size /= 4 {
		for err = nil; err == nil; {
			_, err = filler.Write(make([]byte, size))
		}
	}
	filler.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	refused := 0
	for range 60 { // a page of the file may still have room for some records
		status, body := p.change(t, "e3", "release", "{}")
		if status == 503 && strings.Contains(body, "audit_unavailable") {
			refused++
		} else if status != 200 || refused > 0 {
			t.Fatalf("while the disk is full: %d %s", status, body)
		}
		if refused == 5 {
			break
		}
	}
	if refused < 5 {
		t.Errorf("%d changes were refused", refused)
	}
	wait(t, "the log's word", func() bool { return strings.Contains(p.stderr.String(), "the audit log can't be written: changes") })
	before := answers.Load()
	wait(t, "answers while the disk is full", func() bool { return answers.Load() > before+4 })
	if err := os.Remove(filepath.Join(seen, "filler")); err != nil {
		t.Fatal(err)
	}
	wait(t, "the end of it in the log", func() bool { return strings.Contains(p.stderr.String(), "the audit log can be written again") })
	expect("with room again", 200, "drained_ns")
	close(stop)
	load.Wait()
	if n := strings.Count(p.stderr.String(), "the audit log can't be written: changes"); n != 1 {
		t.Errorf("said %d times", n)
	}
	all, err := audit.Read(filepath.Join(seen, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var resumed *audit.Record
	for i := range all {
		if all[i].Action == "audit.resumed" {
			resumed = &all[i]
		}
	}
	if resumed == nil || resumed.Details["changes_refused"] != float64(refused) {
		t.Errorf("%d were refused; the log: %+v", refused, resumed)
	}
	verify := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), "audit", "verify", filepath.Join(seen, "audit.jsonl"))
	if out, err := verify.CombinedOutput(); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	t.Logf("%d answers, %d failed, %d changes refused", answers.Load(), failed.Load(), refused)
}

// What a server records of its life, as pimoe audit shows it: start, a change, the end; after
// SIGKILL in the middle the chain goes on. An edited byte is named, with exit code 1.
func TestAuditOfAServer(t *testing.T) {
	store := t.TempDir()
	pimoe := func(want int, args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), args...)
		cmd.Env = append(os.Environ(), "PIMOE_HOME="+store)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Fatalf("pimoe %s: exit code %d (%v), want %d\n%s", strings.Join(args, " "), code, err, want, out)
		}
		return string(out)
	}
	p := launch(t, store)
	p.ready(t)
	if status, body := p.change(t, "e2", "swap", `{"backend":"ref"}`); status != 200 {
		t.Fatal(body)
	}
	p.cmd.Process.Kill()
	<-p.exited
	p = launch(t, store)
	p.ready(t)
	if err := p.terminate(); err != nil {
		t.Fatal(err)
	}
	pimoe(0, "audit", "verify")
	var records []audit.Record
	if err := json.Unmarshal([]byte(pimoe(0, "audit", "show", "-o", "json")), &records); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range records {
		got = append(got, r.Action+" "+r.Outcome)
	}
	if text := strings.Join(got, ", "); text != "host.start done, experts.swap asked, experts.swap done, host.start done, host.stop done" {
		t.Errorf("recorded: %s", text)
	}
	if c := fmt.Sprint(records[0].Details["config"]); !strings.HasPrefix(c, "sha256:") || c == fmt.Sprint(records[3].Details["config"]) {
		t.Errorf("digest of the settings, of which the ports differ: %s", c)
	}
	if d := records[2].Details; d["from"] == nil || d["to"] == nil || d["from"] == d["to"] {
		t.Errorf("swapped: %v", d)
	}
	if text := pimoe(0, "audit", "show", "--action", "experts.", "--object", "e2", "-n", "1"); strings.Count(text, "experts.swap") != 1 || strings.Contains(text, "asked") {
		t.Errorf("filtered: %s", text)
	}
	path := filepath.Join(store, "audit", "audit.jsonl")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Replace(b, []byte(`"object":"e2"`), []byte(`"object":"e7"`), 1)
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if text := pimoe(1, "audit", "verify"); !strings.Contains(text, "audit.jsonl:2: edited") {
		t.Errorf("an edited record: %s", text)
	}
	off := launch(t, store, "--set", "audit.file=off")
	off.ready(t)
	if err := off.terminate(); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
		t.Error("audit.file=off writes all the same")
	}
}
