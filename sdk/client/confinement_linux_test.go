package client_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// ordinary says that this test process was started by TestAsOrdinaryUser.
const ordinary = "PIMOE_TEST_ORDINARY"

// TestAsOrdinaryUser runs the tests of confinement once more as a user without rights, if this one has some.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		return // they run so as they are
	}
	const nobody = 65534
	dir := runtimeDir(t)
	if err := os.CopyFS(filepath.Join(dir, "bin"), os.DirFS(bin)); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(dir, "test"), os.Args[0])
	copyFile(t, filepath.Join(dir, "bin", "syscalls.txt"), specificationFile())
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "test"), "-test.v", "-test.short", "-test.run", "^TestConfine")
	cmd.Dir = dir
	cmd.Env = []string{ordinary + "=" + filepath.Join(dir, "bin"), "TMPDIR=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Count(out, []byte("--- PASS: TestConfine")) < 6 || bytes.Contains(out, []byte("--- SKIP")) {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "measure") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

// escapee is a running escape plugin.
type escapee struct {
	*client.Process
	log    *lines
	socket string
}

func startEscape(t *testing.T, dir string) *escapee { return startEscapeAs(t, dir, nil) }

func startEscapeAs(t *testing.T, dir string, profile *client.Profile) *escapee {
	t.Helper()
	e := &escapee{log: &lines{}}
	written, _ := shardFor(t, 1, 1, hidden, inter)
	f, err := os.Open(written.Name()) // as a host opens weights
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before, _ := filepath.Glob(filepath.Join(dir, "p*"))
	p, err := client.Start(t.Context(), client.Command{
		Path: filepath.Join(bin, "escape"), RuntimeDir: dir, Identity: identity(), Plane: client.ExpertPlane(4, hidden, 2), Log: e.log.add,
		Shards: []*os.File{f}, Profile: profile, Confinement: confined(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(context.Background()) })
	e.Process = p
	after, _ := filepath.Glob(filepath.Join(dir, "p*"))
	for _, d := range after {
		if !slices.Contains(before, d) {
			sockets, _ := filepath.Glob(filepath.Join(d, "plugin[0-9]*"))
			if len(sockets) != 1 {
				t.Fatalf("sockets %v", sockets)
			}
			e.socket = sockets[0]
		}
	}
	return e
}

// attack lets the plugin try and returns the fields of the lines that begin with a word.
func (e *escapee) attack(t *testing.T, word string, params map[string]string) (out [][]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := len(e.log.all())
	err := e.Expert().LoadShards(ctx, client.LoadSpec{Spec: expert.Spec{Hidden: hidden, Intermediate: inter, Activation: "silu", Params: params}})
	if err != nil {
		t.Fatalf("%v: %v %v", params, err, e.log.all())
	}
	end := "end of " + params["mode"]
	for began := time.Now(); !slices.Contains(e.log.all()[seen:], end); time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("no %q in the log", end)
		}
	}
	for _, l := range e.log.all()[seen:] {
		if rest, ok := strings.CutPrefix(l, word); ok {
			out = append(out, strings.FieldsFunc(rest, func(r rune) bool { return r == '\t' || word == "result" && r == ' ' }))
		}
	}
	return out
}

func (e *escapee) answers(t *testing.T) {
	t.Helper()
	if err := e.Expert().Forward(t.Context(), call(3, 1)); err != nil {
		t.Errorf("process %d no longer answers: %v", e.PID(), err)
	}
}

// TestDevices: a plugin that is told of the shared memory, and that tells of devices, is told and asked, and lets go of the memory before
// it ends; one that does neither is not asked.
func TestDevices(t *testing.T) {
	e := startEscape(t, nothingLeft(t))
	if !e.Info().Has(sdk.CapDevices) {
		t.Errorf("%+v", e.Info())
	}
	list, err := e.Expert().Devices(t.Context())
	if err != nil || len(list) != 1 || list[0].MemoryBytes != e.SharedBytes() {
		t.Errorf("%+v %v, want one device of %d bytes", list, err, e.SharedBytes())
	}
	if err := e.Stop(t.Context()); err != nil || !slices.Contains(e.log.all(), "shared memory is released") {
		t.Errorf("%v %q", err, e.log.all())
	}
	p := startNasty(t, nastyCommand(nothingLeft(t), "ok"))
	if list, err := p.Expert().Devices(t.Context()); p.Info().Has(sdk.CapDevices) || list != nil || err != nil {
		t.Errorf("%+v: %+v %v", p.Info(), list, err)
	}
}

// measure is what was done under a name.
func (e *escapee) measure(name string) client.Measure {
	for _, m := range e.Confined() {
		if m.Name == name {
			return m
		}
	}
	return client.Measure{}
}

// TestConfinedEscape: everything that an attacker tries from within is denied, for the reason that is meant; to a program on NVIDIA's
// devices, too, but for what its profile gives.
func TestConfinedEscape(t *testing.T) {
	t.Run("program", func(t *testing.T) { escapes(t, nil, nil) })
	t.Run("cuda", func(t *testing.T) {
		escapes(t, &client.Profile{Name: client.ProfileCUDA}, map[string]bool{"open /proc/cpuinfo": true})
	})
}

func escapes(t *testing.T, profile *client.Profile, given map[string]bool) {
	t.Helper()
	dir := nothingLeft(t)
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(secret) })
	sibling, e := startEscape(t, dir), startEscapeAs(t, dir, profile)
	if m := e.measure("profile"); m.Applied != (profile != nil) {
		t.Errorf("profile: %+v", m)
	}
	probes := e.attack(t, "probe\t", map[string]string{
		"mode": "probe", "host": strconv.Itoa(os.Getpid()), "sibling": strconv.Itoa(sibling.PID()), "socket": sibling.socket, "secret": secret,
	})
	ownUser := e.measure("user id").Applied
	for _, p := range probes {
		name, got, good := p[0], p[1], p[2]
		if given[name] != (got == "ALLOWED") || !given[name] && good != "true" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if len(probes) < 100 {
		t.Errorf("only %d probes", len(probes))
	}
	t.Logf("measured: %d probes, all denied but %d that the profile gives (own user: %v)", len(probes), len(given), ownUser)
	if b, err := os.ReadFile(secret); err != nil || string(b) != "s3cret" {
		t.Errorf("%q %v", b, err)
	}
	sibling.attack(t, "", map[string]string{"mode": "warm"})
	sibling.answers(t)
	e.answers(t)
}

// TestConfinedMeasures: the kernel says of the process what the report says, and as much is applied as the host's user can.
func TestConfinedMeasures(t *testing.T) {
	e := startEscape(t, nothingLeft(t))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.PID()))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{ // on every Linux that this runs on: Landlock and seccomp need no rights
		"sealed executable": true, "no_new_privs": true, "seccomp": true, "landlock": true, "limits": true, "no capabilities": true, "not dumpable": true,
		"oom score": true, "user id": os.Geteuid() == 0,
	}
	for name, applied := range want {
		if m := e.measure(name); m.Applied != applied || !applied && m.Detail == "" {
			t.Errorf("%s: %+v, want applied %v", name, m, applied)
		}
	}
	for _, m := range e.Confined() {
		t.Logf("measure %+v", m)
	}
	// Most systems that tests run on have no cgroup to divide; then the report says why.
	group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", e.PID()))
	if m := e.measure("cgroup"); m.Applied != strings.Contains(string(group), "/pimoe-plugin-") || !m.Applied && !strings.HasPrefix(m.Detail, "none (") {
		t.Errorf("cgroup: %+v; the kernel says %s %v", m, group, err)
	}
	for _, line := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"} {
		if !strings.Contains(string(status), line+"\n") {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	if own := !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", os.Geteuid())); own != (os.Geteuid() == 0) {
		t.Errorf("a user of its own: %v\n%s", own, status)
	}
	if score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", e.PID())); err != nil || strings.TrimSpace(string(score)) < "500" {
		t.Errorf("oom_score_adj %q %v", score, err)
	}
	if limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", e.PID())); err != nil || !strings.Contains(string(limits), "Max file size             0                    0 ") {
		t.Errorf("%v\n%s", err, limits)
	}
}

// TestConfinedAsTheHost: without users of their own, processes have that of the host, and its capabilities least of all.
func TestConfinedAsTheHost(t *testing.T) {
	confinement := client.NewConfinement(client.ConfinementOptions{Users: client.UserRange{Count: 1}})
	defer confinement.Close()
	c := nastyCommand(nothingLeft(t), "ok")
	c.Confinement = confinement
	p := startNasty(t, c)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{fmt.Sprintf("Uid:\t%d\t", os.Geteuid()), "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	if err := p.Expert().Forward(t.Context(), call(3, 1)); err != nil {
		t.Error(err)
	}
}

// TestConfinedUsers: no two processes have the same user, where they have their own.
func TestConfinedUsers(t *testing.T) {
	dir := nothingLeft(t)
	seen := map[string]bool{}
	for range 4 {
		m := startEscape(t, dir).measure("user id")
		if m.Applied == seen[m.Detail] && m.Applied {
			t.Errorf("user %s twice", m.Detail)
		}
		seen[m.Detail] = true
	}
}

// TestConfinedMatrix: of N experts, none can read, signal, stop, slow down or reach another.
func TestConfinedMatrix(t *testing.T) {
	dir := nothingLeft(t)
	const n = 4
	var all []*escapee
	for range n {
		all = append(all, startEscape(t, dir))
	}
	tries := 0
	for i, e := range all {
		var others []string
		for j, o := range all {
			if i != j {
				others = append(others, fmt.Sprintf("%d:%s", o.PID(), o.socket))
			}
		}
		for _, r := range e.attack(t, "result", map[string]string{"mode": "matrix", "others": strings.Join(others, " ")}) {
			tries++
			if r[2] != "EPERM" && r[2] != "EACCES" {
				t.Errorf("%d to %s, %s: %s", e.PID(), r[0], r[1], r[2])
			}
		}
	}
	if want := n * (n - 1) * 14; tries != want {
		t.Errorf("%d tries, want %d", tries, want)
	}
	for _, e := range all {
		e.answers(t)
	}
}

// TestConfinedHogs: who takes all it can get harms itself alone.
func TestConfinedHogs(t *testing.T) {
	dir := nothingLeft(t)
	honest := startEscape(t, dir)
	honest.attack(t, "", map[string]string{"mode": "warm"})
	files := startEscape(t, dir)
	got := files.attack(t, "result", map[string]string{"mode": "hog-files"})
	if n, err := strconv.Atoi(got[0][0]); err != nil || n > 300 || got[0][1] != "EMFILE" {
		t.Errorf("descriptors: %v", got)
	}
	for _, mode := range []string{"hog-memory", "hog-threads"} {
		if mode == "hog-threads" && os.Geteuid() != 0 {
			continue // an ordinary user's processes are counted together; the limit is that user's
		}
		c := client.Command{
			Path: filepath.Join(bin, "escape"), RuntimeDir: dir, Identity: identity(), Plane: client.ExpertPlane(4, hidden, 2),
			Confinement: client.NewConfinement(client.ConfinementOptions{Memory: 256 << 20}),
		}
		p, err := client.Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		p.Expert().LoadShards(ctx, client.LoadSpec{Spec: expert.Spec{Hidden: hidden, Intermediate: inter, Params: map[string]string{"mode": mode}}})
		select {
		case <-p.Exited():
		case <-ctx.Done():
			t.Errorf("%s: it took all and lives", mode)
		}
		cancel()
		if d := p.Death(); d.Asked || d.OOM || d.ExitCode != 2 {
			t.Errorf("%s: %v %q", mode, d, d.LastLines)
		}
		p.Stop(t.Context())
		c.Confinement.Close()
		honest.answers(t)
	}
}

func specificationFile() string {
	if os.Getenv(ordinary) != "" {
		return filepath.Join(bin, "syscalls.txt")
	}
	return filepath.Join("..", "internal", "confine", "testdata", "syscalls_"+runtime.GOARCH+".txt")
}

// specification reads the file that says which system calls a plugin may make.
func specification(t *testing.T) (verdicts map[int]string) {
	t.Helper()
	f, err := os.Open(specificationFile())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	verdicts = map[int]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		number, rest, _ := strings.Cut(s.Text(), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(s.Text())
		}
		_, verdicts[n], _ = strings.Cut(rest, ": ")
	}
	return verdicts
}

// TestConfinedCalls tries every system call number: what the specification does not name is denied, what it names is
// what happens.
func TestConfinedCalls(t *testing.T) {
	dir := nothingLeft(t)
	spec := specification(t)
	var skip, fatal []string
	passed := 0
	for n, v := range spec {
		switch {
		case v == "killed" || strings.HasSuffix(v, "else killed"):
			fatal = append(fatal, strconv.Itoa(n))
			skip = append(skip, strconv.Itoa(n))
		case n == unix.SYS_EXIT || n == unix.SYS_EXIT_GROUP || n == unix.SYS_RT_SIGRETURN || n == unix.SYS_CLOSE:
			skip = append(skip, strconv.Itoa(n)) // each ends this process or breaks it, as it may
		}
		if strings.HasPrefix(v, "allowed") {
			passed++
		}
	}
	if passed > 60 || passed < 40 {
		t.Errorf("%d system calls are allowed", passed)
	}
	if runtime.GOARCH == "amd64" {
		skip = append(skip, "335", "336") // uretprobe and uprobe: no filter sees them, and they end a caller that is no probe
	}
	tried := 0
	for _, r := range startEscape(t, dir).attack(t, "result", map[string]string{"mode": "calls", "skip": strings.Join(skip, " ")}) {
		n, err := strconv.Atoi(r[0])
		if err != nil {
			t.Fatal(r)
		}
		tried++
		want, named := spec[n]
		switch {
		case n == unix.SYS_FUTEX && r[1] == "ENOSYS": // it has no such operation
			continue
		}
		switch got := r[1]; {
		case !named && got != "EPERM", want == "ENOSYS" && got != "ENOSYS":
			t.Errorf("system call %d: %s, want it denied (%s)", n, got, want)
		case want == "allowed" && (got == "EPERM" || got == "ENOSYS"):
			t.Errorf("system call %d: %s, want %s", n, got, want)
		case strings.HasSuffix(want, "else EPERM") && got != "EPERM": // no argument is what it should be
			t.Errorf("system call %d: %s, want EPERM", n, got)
		}
	}
	if tried+len(skip) < 480 {
		t.Errorf("%d tried, %d skipped", tried, len(skip))
	}
	for _, n := range fatal {
		p := startEscape(t, dir)
		p.Expert().LoadShards(t.Context(), client.LoadSpec{Spec: expert.Spec{Hidden: hidden, Intermediate: inter, Params: map[string]string{"mode": "call", "number": n}}})
		if d := p.Death(); d.Signal != "SIGSYS" {
			t.Errorf("system call %s: %v, want it killed by SIGSYS: %v", n, d, d.LastLines)
		}
	}
	t.Logf("measured: %d numbers tried, %d allowed in some form, %d kill", tried+len(skip), passed, len(fatal))
}

// TestConfinedExec: a program that knows the descriptor of something executable still can't execute it.
func TestConfinedExec(t *testing.T) {
	e := startEscape(t, nothingLeft(t))
	e.Expert().LoadShards(t.Context(), client.LoadSpec{Spec: expert.Spec{Hidden: hidden, Intermediate: inter, Params: map[string]string{"mode": "execveat"}}})
	if d := e.Death(); d.Signal != "SIGSYS" {
		t.Errorf("%v %v", d, d.LastLines)
	}
}

// TestConfinePermissions is the matrix of files that must not be executed: S31.
func TestConfinePermissions(t *testing.T) {
	dir := nothingLeft(t)
	folder := mkdir(t, filepath.Join(t.TempDir(), "plugins"))
	path := filepath.Join(folder, "plugin")
	copyFile(t, path, filepath.Join(bin, "expert-swiglu"))
	link := filepath.Join(folder, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(folder, "fifo")
	if err := unix.Mkfifo(fifo, 0o755); err != nil {
		t.Fatal(err)
	}
	start := func(path string, trusting bool) error {
		c := client.Command{Path: path, RuntimeDir: dir, Identity: identity(), Transport: client.TransportGRPC,
			Confinement: client.NewConfinement(client.ConfinementOptions{Trusting: trusting})}
		defer c.Confinement.Close()
		p, err := client.Start(t.Context(), c)
		if err == nil {
			p.Stop(context.Background())
		}
		return err
	}
	refused := func(what string, err error) {
		t.Helper()
		var se *client.StartError
		if !errors.As(err, &se) || se.Reason != client.ReasonUntrusted || !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for mode := range 0o1000 {
		if mode&0o100 == 0 || mode&0o400 == 0 || mode&0o022 == 0 && mode != 0o755 && mode != 0o700 && mode != 0o511 {
			continue // not executable or readable; and of the safe ones these will do
		}
		if err := os.Chmod(path, os.FileMode(mode)); err != nil {
			t.Fatal(err)
		}
		if err := start(path, false); mode&0o022 != 0 {
			refused(fmt.Sprintf("file mode %04o", mode), err)
		} else if err != nil {
			t.Errorf("file mode %04o: %v", mode, err)
		}
	}
	os.Chmod(path, 0o755)
	for mode, safe := range map[os.FileMode]bool{0o755: true, 0o700: true, 0o775: false, 0o757: false, 0o777: false, 0o777 | os.ModeSticky: false, 0o720: false, 0o702: false} {
		if err := os.Chmod(folder, mode); err != nil {
			t.Fatal(err)
		}
		if err := start(path, false); safe && err != nil {
			t.Errorf("folder mode %v: %v", mode, err)
		} else if !safe {
			refused(fmt.Sprintf("folder mode %v", mode), err)
		}
	}
	if err := start(path, true); err != nil {
		t.Errorf("a host that trusts: %v", err)
	}
	os.Chmod(folder, 0o755)
	refused("a link", start(link, false))
	if err := start(link, true); err != nil {
		t.Errorf("a link, and a host that trusts: %v", err)
	}
	refused("a pipe", start(fifo, true))
	if os.Geteuid() == 0 {
		for what, name := range map[string]string{"file": path, "folder": folder} {
			if err := os.Chown(name, 1234, 1234); err != nil {
				t.Fatal(err)
			}
			refused("another user's "+what, start(path, false))
			os.Chown(name, 0, 0)
		}
	}
}

// TestConfineRacingReplacer: while a file is replaced again and again by another program, what runs is always what was
// hashed and judged: S30.
func TestConfineRacingReplacer(t *testing.T) {
	dir := nothingLeft(t)
	folder := mkdir(t, filepath.Join(t.TempDir(), "plugins"))
	path := filepath.Join(folder, "plugin")
	good, bad := filepath.Join(bin, "expert-swiglu"), filepath.Join(bin, "router-top1")
	f, err := os.Open(good)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := client.Digest(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(folder, "good"), good)
	copyFile(t, filepath.Join(folder, "bad"), bad)
	swap := func(from string) {
		tmp := filepath.Join(folder, "new")
		os.Remove(tmp)
		if err := errors.Join(os.Link(filepath.Join(folder, from), tmp), os.Rename(tmp, path)); err != nil {
			t.Error(err)
		}
	}
	swap("good")
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				done <- n
				return
			default:
				swap([]string{"bad", "good"}[n%2])
			}
		}
	}()
	confinement := client.NewConfinement(client.ConfinementOptions{Check: func(_, d string) error {
		if d != digest {
			return fmt.Errorf("another digest: %w", sdk.ErrUnsupported)
		}
		return nil
	}})
	defer confinement.Close()
	enough := 15
	if testing.Short() {
		enough = 4
	}
	runs, refusals := 0, 0
	for tries := 0; tries < 60 && (runs < enough || refusals < enough); tries++ {
		p, err := client.Start(t.Context(), client.Command{
			Path: path, RuntimeDir: dir, Identity: identity(), Transport: client.TransportGRPC, Confinement: confinement,
		})
		if err != nil {
			if !strings.Contains(err.Error(), "another digest") && !strings.Contains(err.Error(), "no such file") {
				t.Fatal(err)
			}
			refusals++
			continue
		}
		runs++
		if p.Info().Kind != sdk.KindExpert {
			t.Errorf("a %s runs", p.Info().Kind)
		}
		p.Stop(context.Background())
	}
	close(stop)
	t.Logf("measured: %d swaps, %d starts, %d refused", <-done, runs, refusals)
	if runs == 0 || refusals == 0 {
		t.Errorf("%d starts, %d refused: there was no race", runs, refusals)
	}
}

// pythonProbes is a script that tries to get out and says what came of each try.
const pythonProbes = `#!/usr/bin/python3
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(f):
    def probe():
        ctypes.set_errno(0)
        if f() < 0: raise OSError(ctypes.get_errno(), "refused")
    return probe
def connect(family, kind, to):
    def probe():
        with socket.socket(family, kind) as s: s.connect(to)
    return probe
probes = {
    "read /etc/passwd": lambda: open("/etc/passwd").read(),
    "read the host's memory": lambda: open("/proc/%d/maps" % os.getppid()).read(),
    "list /tmp": lambda: os.listdir("/tmp"),
    "write into its libraries": lambda: open(sys.path[0] + "/x", "w"),
    "write into its folder": lambda: os.write(os.open("x", os.O_CREAT | os.O_WRONLY), b"x"),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "kill the host": lambda: os.kill(os.getppid(), 0),
    "tcp": connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 1)),
    "udp": connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 1)),
    "unix": connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0x"),
    "unix datagrams": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "addressed message": lambda: socket.socket(socket.AF_UNIX).sendmsg([b"x"], [], 0, "\0x"),
    "ptrace": call(lambda: libc.ptrace(16, os.getppid(), 0, 0)),
    "memfd": lambda: os.memfd_create("x"),
    "unshare": call(lambda: libc.unshare(0x10000000)),
    "mount": call(lambda: libc.mount(b"none", b"/", b"tmpfs", 0, None)),
    "become root": lambda: os.setuid(0) if os.getuid() else (_ for _ in ()).throw(PermissionError()),
    "chmod": lambda: os.chmod(".", 0o777),
    "link": lambda: os.symlink("/", "x"),
    "rename": lambda: os.rename(".", "../x"),
}
for name, probe in probes.items():
    try:
        probe()
        print("probe", name, "ESCAPED", file=sys.stderr)
    except BaseException as e:
        print("probe", name, "denied", type(e).__name__, file=sys.stderr)
sys.exit(0)
`

// TestPythonProfile: a script has nothing that a program has not, but its libraries to read; and neither script nor interpreter
// nor libraries may be others than those that are pinned.
func TestPythonProfile(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("needs /usr/bin/python3")
	}
	dir := runtimeDir(t)
	lib, script := filepath.Join(dir, "lib"), filepath.Join(dir, "probes")
	if err := errors.Join(os.Mkdir(lib, 0o755), os.WriteFile(filepath.Join(lib, "a.py"), nil, 0o644), os.WriteFile(script, []byte(pythonProbes), 0o755)); err != nil {
		t.Fatal(err)
	}
	digest, err := client.TreeDigest(lib, false)
	if err != nil {
		t.Fatal(err)
	}
	start := func(p client.Profile) (string, error) {
		log := &lines{}
		_, err := client.Start(t.Context(), client.Command{
			Path: script, RuntimeDir: dir, Identity: identity(), Transport: client.TransportGRPC, Log: log.add, Profile: &p,
		})
		return strings.Join(log.all(), "\n"), err
	}
	good := client.Profile{Name: client.ProfilePython, Reads: []client.Pinned{{Path: lib, Digest: digest}}}
	out, err := start(good)
	if err == nil || strings.Contains(out, "ESCAPED") || strings.Count(out, " denied ") != 22 {
		t.Errorf("%v\n%s", err, out)
	}
	for what, p := range map[string]client.Profile{
		"interpreter": {Name: good.Name, Interpreter: client.Pinned{Path: must(client.Interpreter(script)), Digest: "sha256:other"}},
		"libraries":   {Name: good.Name, Reads: []client.Pinned{{Path: lib, Digest: "sha256:other"}}},
	} {
		var why *client.StartError
		if out, err := start(p); !errors.As(err, &why) || why.Reason != client.ReasonUntrusted || out != "" {
			t.Errorf("other %s: %v\n%s", what, err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(lib, "b.py"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := start(good); err == nil || !strings.Contains(err.Error(), "not what the catalogue pins") {
		t.Errorf("a file more: %v", err)
	}
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}
