package smoke

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/systemd"
)

// TestUnits: systemd itself finds nothing to say about the units, and little that they still allow.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed (Debian: systemd)")
	}
	for _, p := range deploy.Profiles() {
		v := deploy.For(deploy.Production, p)
		v.Programs = coretest.Binaries(t) // a unit names executables that there are
		files, err := systemd.Target{}.Files(v)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if _, err := deploy.Write(dir, files); err != nil {
			t.Fatal(err)
		}
		var units []string
		for _, f := range files {
			if ext := filepath.Ext(f.Path); ext == ".service" || ext == ".socket" {
				units = append(units, filepath.Join(dir, f.Path))
			}
		}
		out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, units...)...).CombinedOutput()
		if err != nil || strings.Contains(string(out), dir) {
			t.Errorf("%s: %v\n%s", p, err, out)
		}
		for _, u := range units {
			if filepath.Ext(u) == ".service" {
				exposed(t, analyze, u)
			}
		}
	}
}

var level = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

// exposed holds systemd's own grade of a unit, from 0 to 10; a unit that says nothing has 9.6.
func exposed(t *testing.T, analyze, unit string) {
	t.Helper()
	out, err := exec.Command(analyze, "security", "--offline=true", "--no-pager", unit).CombinedOutput()
	m := level.FindSubmatch(out)
	if err != nil || m == nil {
		t.Errorf("%s: %v\n%s", unit, err, out)
		return
	}
	grade, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil || grade > 3 {
		t.Errorf("%s: exposure level %s\n%s", unit, m[1], out)
	}
}

// TestRedis: the real redis-server takes the rendered configuration and the password as the container's command hands it
// over.
func TestRedis(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed (Debian: redis-server)")
	}
	v := deploy.Defaults()
	v.Ports.Redis = freePort(t)
	dir, c := renderedCompose(t, v)
	password := filepath.Join(dir, "redis_password")
	if err := os.WriteFile(password, []byte("open-sesame-42-please"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := strings.NewReplacer("$$", "$", "/etc/redis.conf", filepath.Join(dir, "redis.conf"), "/run/secrets/redis_password", password).Replace(c.Services["redis"].Command[2])
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the shell's pipe has a process of its own
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
	port := fmt.Sprint(v.Ports.Redis)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if out, _ := exec.Command("redis-cli", "-p", port, "ping").CombinedOutput(); strings.Contains(string(out), "NOAUTH") {
			break
		}
	}
	for given, want := range map[string]string{"": "NOAUTH", "wrong": "WRONGPASS", "open-sesame-42-please": "PONG"} {
		ping := exec.Command("redis-cli", "-p", port, "ping")
		ping.Env = append(os.Environ(), "REDISCLI_AUTH="+given)
		if out, err := ping.CombinedOutput(); err != nil && want == "PONG" || !strings.Contains(string(out), want) {
			t.Errorf("with password %q: %v %s, want %s", given, err, out, want)
		}
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if b, err := os.ReadFile(l); err == nil && strings.Contains(string(b), "sesame") {
			t.Errorf("the password is on a command line: %q", b)
		}
	}
}
