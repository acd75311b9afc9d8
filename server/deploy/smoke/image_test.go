package smoke

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
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/sbom"
)

func TestMain(m *testing.M) {
	code := m.Run()
	coretest.RemoveBinaries()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// tree assembles the files of an image.
func tree(t *testing.T, kind string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), kind)
	cmd := exec.Command(filepath.Join(coretest.Repo(t), "scripts", "image.sh"), "tree", kind, dir)
	cmd.Env = append(os.Environ(), "BIN="+coretest.Binaries(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("assemble the image: %v\n%s", err, out)
	}
	return dir
}

// TestTrees: the image of the host has host and plugins, that of the plugins has no host, both have licence, catalogue and
// bill of materials, and the Dockerfile takes these folders and no other files.
func TestTrees(t *testing.T) {
	for kind, host := range map[string]bool{"host": true, "plugins": false} {
		dir := tree(t, kind)
		for name, want := range map[string]bool{
			"usr/local/bin/pimoe": host, "usr/local/bin/pimoe-expert-cpu": true, "usr/local/bin/pimoe-router-model": true, "usr/local/bin/plugins.yaml": true,
			"usr/share/doc/pimoe/LICENSE": true, "usr/share/doc/pimoe/sbom.cdx.json": true, "bin/sh": false,
		} {
			if st, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want || err == nil && st.Mode().Perm()&0o022 != 0 {
				t.Errorf("%s has %s: %v, want %v", kind, name, err, want)
			}
		}
		checkBill(t, dir)
	}
	b, err := os.ReadFile(filepath.Join(coretest.Repo(t), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	var copied []string
	for _, m := range regexp.MustCompile(`(?m)^COPY --from=build (.*)$`).FindAllStringSubmatch(string(b), -1) {
		copied = append(copied, m[1])
	}
	if want := []string{"/image/plugins/ /", "/image/host/ /", "--chown=nonroot:nonroot /data /data"}; !slices.Equal(copied, want) {
		t.Errorf("the Dockerfile copies %q, want %q", copied, want)
	}
	if !strings.Contains(string(b), "scripts/image.sh tree host /image/host && scripts/image.sh tree plugins /image/plugins") {
		t.Error("the Dockerfile does not let scripts/image.sh assemble the files")
	}
}

// checkBill holds the bill of materials of a tree against its executables.
func checkBill(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "usr/share/doc/pimoe/sbom.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d sbom.Document
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil || d.Format != "CycloneDX" || d.SpecVersion != "1.6" || d.Version != 1 {
		t.Fatalf("bill of materials: %v, %s %s", err, d.Format, d.SpecVersion)
	}
	files, err := filepath.Glob(filepath.Join(dir, "usr/local/bin/pimoe*"))
	if err != nil {
		t.Fatal(err)
	}
	programs, refs := map[string]bool{}, map[string]bool{d.Metadata.Component.Ref: true}
	purl := regexp.MustCompile(`^pkg:golang/[^@ ]+@[^@ ]+$`)
	for _, c := range d.Components {
		if refs[c.Ref] {
			t.Errorf("component %s is there twice", c.Ref)
		}
		refs[c.Ref] = true
		switch c.Type {
		case "application":
			programs[c.Name] = len(c.Hashes) == 1 && c.Hashes[0].Alg == "SHA-256" && len(c.Hashes[0].Content) == 64
		case "library":
			if !purl.MatchString(c.Purl) || c.Version == "" {
				t.Errorf("component %+v", c)
			}
		default:
			t.Errorf("component %+v", c)
		}
	}
	for _, f := range files {
		if !programs[filepath.Base(f)] {
			t.Errorf("%s is not in the bill of materials, or without its digest", filepath.Base(f))
		}
	}
	if len(programs) != len(files) {
		t.Errorf("the bill has %d programs, the tree %d", len(programs), len(files))
	}
	linked := map[string]int{}
	for _, dep := range d.Dependencies {
		for _, on := range dep.DependsOn {
			if !refs[on] || !refs[dep.Ref] {
				t.Errorf("%s depends on %s, which is no component", dep.Ref, on)
			}
			linked[dep.Ref]++
		}
	}
	if linked[d.Metadata.Component.Ref] != len(files) || linked["file:pimoe-expert-cpu"] < 5 {
		t.Errorf("dependencies %v", linked)
	}
	again, err := sbom.Of(d.Metadata.Component.Name, d.Metadata.Component.Version, files)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := again.JSON(); err != nil || !bytes.Equal(text, b) {
		t.Errorf("made again it differs, %v", err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestImageRuns renders compose, makes its secrets by its own script, assembles the image, and runs it as compose.yaml
// says: its user, a root file system that can't be written, its variables, mounts and secrets. It answers a chat, and
// Prometheus' key opens the metrics and nothing else.
func TestImageRuns(t *testing.T) {
	if out, err := exec.Command("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt").CombinedOutput(); err != nil {
		t.Skipf("needs user namespaces with mounts: %v %s", err, bytes.TrimSpace(out))
	}
	v := deploy.For(deploy.Development, deploy.Standard)
	v.Ports.HTTP, v.Ports.Admin, v.Ports.GRPC = freePort(t), freePort(t), freePort(t)
	dir, c := renderedCompose(t, v)
	host := c.Services["pimoe-1"]
	makeSecrets(t, dir)
	mounts := mountsOf(t, dir, host)
	data, err := os.MkdirTemp("", "pimoe-data-") // a short path: sockets live below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	cmd := exec.Command(filepath.Join(coretest.Repo(t), "scripts", "image.sh"), "run", tree(t, "host"), data)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "MOUNTS=" + mounts}
	for name, value := range host.Environment {
		if name != "PIMOE_HOME" && strings.HasPrefix(name, "PIMOE_") || name == "PIMOE_HOME" && value != "/data" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	ended := false
	t.Cleanup(func() {
		if !ended {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-exited
		}
		http.DefaultClient.CloseIdleConnections()
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", v.Ports.HTTP)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if status, _ := ask(t, http.MethodGet, base+"/readyz", "", ""); status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) || len(exited) > 0 {
			t.Fatalf("the image does not get ready:\n%s", log)
		}
	}
	key, metrics := secretText(t, dir, "api_key"), secretText(t, dir, "metrics_key")
	const chat = `{"model":"pimoe-tiny","messages":[{"role":"user","content":"Tell me a story."}],"max_tokens":8}`
	if status, body := ask(t, http.MethodPost, base+"/v1/chat/completions", key, chat); status != http.StatusOK || !strings.Contains(body, `"content":`) {
		t.Errorf("chat: %d %s", status, body)
	}
	if status, body := ask(t, http.MethodGet, base+"/metrics", metrics, ""); status != http.StatusOK || !strings.Contains(body, "pimoe_http_requests_total") {
		t.Errorf("metrics: %d %.300s", status, body)
	}
	if status, body := ask(t, http.MethodPost, base+"/v1/chat/completions", metrics, chat); status != http.StatusForbidden {
		t.Errorf("a chat with the key of Prometheus: %d %s", status, body)
	}
	confined(t, cmd.Process.Pid)
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-exited:
		ended = true
		if err != nil {
			t.Errorf("end after SIGTERM: %v\n%s", err, log)
		}
	case <-time.After(45 * time.Second): // compose.yaml's stop_grace_period
		t.Errorf("still there after SIGTERM:\n%s", log)
	}
}

// confined looks at the host's process as the kernel shows it: no rights, no way to new ones, a root that can't be
// written, and the user of the image within its namespace.
func confined(t *testing.T, group int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		dir := filepath.Dir(f)
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		pgid, _ := syscall.Getpgid(number(filepath.Base(dir)))
		if err != nil || pgid != group || !strings.HasPrefix(string(args), "/usr/local/bin/pimoe\x00serve") {
			continue
		}
		status, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("the host has no %q in\n%s", want, status)
			}
		}
		if m, err := os.ReadFile(filepath.Join(dir, "uid_map")); err != nil || strings.Fields(string(m))[0] != "65532" {
			t.Errorf("the host's user is %s, %v", m, err)
		}
		info, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if root := regexp.MustCompile(`(?m)^\S+ \S+ \S+ \S+ / (ro)[, ]`); err != nil || !root.Match(info) {
			t.Errorf("its root can be written, %v:\n%s", err, info)
		}
		return
	}
	t.Error("the host's process was not found")
}

func number(text string) (n int) {
	fmt.Sscan(text, &n)
	return n
}

// makeSecrets runs the script of the rendered folder, twice: the second time changes nothing.
func makeSecrets(t *testing.T, dir string) {
	t.Helper()
	before := ""
	for range 2 {
		cmd := exec.Command(filepath.Join(dir, "secrets.sh"))
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "PIMOE=" + filepath.Join(coretest.Binaries(t), "pimoe"), "PIMOE_HOME=" + t.TempDir()}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("secrets.sh: %v\n%s", err, out)
		}
		now := ""
		for _, name := range []string{"api_key", "keys.json", "metrics_key", "redis_password", "grafana_password", "tls.crt", "tls.key"} {
			now += secretText(t, dir, name) + "\n"
		}
		if before != "" && now != before {
			t.Error("secrets.sh has changed secrets that were there")
		}
		before = now
	}
}

func secretText(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "secrets", name))
	if err != nil || len(b) == 0 {
		t.Fatalf("secret %s: %v", name, err)
	}
	return strings.TrimSpace(string(b))
}

// mountsOf copies what compose mounts into a host's container to where scripts/image.sh finds it.
func mountsOf(t *testing.T, dir string, host service) string {
	t.Helper()
	mounts := t.TempDir()
	put := func(from, to string, mode os.FileMode) {
		b, err := os.ReadFile(filepath.Join(dir, from))
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(mounts, to)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range host.Volumes {
		if m.Type == "bind" {
			put(m.Source, m.Target, 0o444)
		}
	}
	for _, name := range host.Secrets {
		put(filepath.Join("secrets", name), filepath.Join("run/secrets", name), 0o400)
	}
	return mounts
}

func ask(t *testing.T, method, url, key, body string) (status int, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}
