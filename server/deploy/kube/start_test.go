package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/deploy"
)

func TestMain(m *testing.M) {
	code := m.Run()
	coretest.RemoveBinaries()
	os.Exit(code)
}

// freePorts are ports of this machine that nobody listens on.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var out []int
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		out = append(out, ln.Addr().(*net.TCPAddr).Port)
	}
	return out
}

// output is the file with what a process prints.
type output string

func (o output) String() string {
	b, err := os.ReadFile(string(o))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// run starts a process that the test ends.
func run(t *testing.T, env []string, command ...string) (*exec.Cmd, output) {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "output")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := with(env, command...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return cmd, output(log.Name())
}

// TestPodStarts runs what the manifests describe: Redis by its container's command, the host with its ConfigMap, variables and
// secrets. The probes that the manifest names succeed, a repeated question is answered from Redis, Prometheus' request is let
// in with the secret alone, and SIGTERM ends the host within its time.
func TestPodStarts(t *testing.T) {
	bin := coretest.Binaries(t)
	v := deploy.Defaults()
	ports := freePorts(t, 3)
	v.Ports.HTTP, v.Ports.GRPC, v.Ports.Redis = ports[0], ports[1], ports[2]
	all := objects(t, files(t, Target{}, v))
	p := newPod(t, all, []string{"pimoe-redis:", "127.0.0.1:"})
	env := append(p.environment(), "PIMOE_SERVER__ADMIN_ADDR=off", "PATH="+os.Getenv("PATH"), "HOME="+p.dir)
	if out, err := with(env, filepath.Join(bin, "pimoe"), "encryption", "new-key").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	cache := object(find(t, all, "Deployment", "pimoe-redis").at("spec", "template", "spec", "containers", 0).(map[string]any))
	run(t, append(p.variables(cache), "PATH="+os.Getenv("PATH")), words(cache["command"])...)
	redisDo := func(command string, opts ...redis.DialOption) (any, error) {
		c, err := redis.DialContext(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(v.Ports.Redis), opts...)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.Do(command)
	}
	password := redis.DialPassword("nB7cE1kYt5Wq3Zs8")
	eventually(t, "Redis answers", func() error { _, err := redisDo("PING", password); return err })
	if _, err := redisDo("PING"); err == nil {
		t.Error("Redis asks for no password")
	}

	host, log := run(t, env, append([]string{filepath.Join(bin, "pimoe")}, words(p.container["args"])...)...)
	url := "http://127.0.0.1:" + strconv.Itoa(v.Ports.HTTP)
	for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
		path := p.container.at(probe, "httpGet", "path").(string)
		eventually(t, probe, func() error {
			if status, _, _ := ask(t, http.MethodGet, url+path, "", nil); status != http.StatusOK {
				return fmt.Errorf("%s: status %d\n%s", path, status, log)
			}
			return nil
		})
	}
	question := []byte(`{"model":"pimoe-tiny","prompt":"Tell me a story about a fox","max_tokens":8,"temperature":0}`)
	for i, want := range []string{"miss", "hit"} {
		status, header, body := ask(t, http.MethodPost, url+"/v1/completions", "Vq9xT2mLw8Rz4Kp7", question)
		if status != http.StatusOK || header.Get("X-Cache") != want || !json.Valid(body) {
			t.Errorf("answer %d: %d %s %s", i, status, header.Get("X-Cache"), body)
		}
	}
	eventually(t, "the answer is in Redis", func() error {
		if n, err := redis.Int(redisDo("DBSIZE", password)); err != nil || n == 0 {
			return fmt.Errorf("%d keys: %v", n, err)
		}
		return nil
	})
	monitor := find(t, all, "ServiceMonitor", "pimoe")
	key, err := os.ReadFile(filepath.Join(p.dir, "secrets", monitor.at("spec", "endpoints", 0, "authorization", "credentials", "key").(string)))
	if err != nil {
		t.Fatal(err)
	}
	for credential, want := range map[string]int{string(key): http.StatusOK, "": http.StatusUnauthorized} {
		if status, _, _ := ask(t, http.MethodGet, url+monitor.at("spec", "endpoints", 0, "path").(string), credential, nil); status != want {
			t.Errorf("metrics with %q: status %d, want %d", credential, status, want)
		}
	}
	stop(t, host, log, find(t, all, "Deployment", "pimoe").at("spec", "template", "spec", "terminationGracePeriodSeconds").(int))
}

// stop sends SIGTERM and sees the host end well within its time.
func stop(t *testing.T, host *exec.Cmd, log output, seconds int) {
	t.Helper()
	if err := host.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- host.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%v\n%s", err, log)
		}
	case <-time.After(time.Duration(seconds) * time.Second):
		host.Process.Kill()
		t.Errorf("no end after %d s: %v", seconds, <-done)
	}
}

// TestSnapshot: the init container's command unpacks a store that pimoe then knows.
func TestSnapshot(t *testing.T) {
	bin := coretest.Binaries(t)
	dir := t.TempDir()
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "PIMOE_HOME=" + dir + "/made"}
	for _, command := range [][]string{
		{filepath.Join(bin, "pimoe"), "import", "--name", "olmoe", coretest.PimoeTiny(t)},
		{"tar", "-czf", dir + "/store.tar.gz", "-C", dir + "/made", "models"},
	} {
		if out, err := with(env, command...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", command, err, out)
		}
	}
	all := objects(t, files(t, Target{}, cases()["serverless"]))
	p := newPod(t, all, []string{"/snapshot", dir})
	unpack := object(find(t, all, "Deployment", "pimoe").at("spec", "template", "spec", "initContainers", 0).(map[string]any))
	for range 2 { // a node that starts again runs it again
		if out, err := with(append(p.variables(unpack), "PATH="+os.Getenv("PATH")), words(unpack["command"])...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	out, err := with(append(env, p.environment()...), filepath.Join(bin, "pimoe"), "models").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "olmoe") {
		t.Errorf("%v\n%s", err, out)
	}
	if err := os.WriteFile(dir+"/store.tar.gz", []byte("cut short"), 0o644); err != nil {
		t.Fatal(err)
	}
	if with(append(p.variables(unpack), "PATH="+os.Getenv("PATH")), words(unpack["command"])...).Run() == nil {
		t.Error("a damaged snapshot is taken")
	}
}

func with(env []string, command ...string) *exec.Cmd {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = env
	return cmd
}

func words(list any) []string {
	var out []string
	for _, w := range list.([]any) {
		out = append(out, w.(string))
	}
	return out
}

func ask(t *testing.T, method, url, key string, body []byte) (int, http.Header, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, text
}

// eventually waits until f succeeds, for as long as a busy machine may take.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}
