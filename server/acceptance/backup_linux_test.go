package acceptance

import (
	"encoding/json"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/cost"
)

// TestBackupOfAServer: a backup that is made while a server runs is put into a new home, and a new server there has the jobs, the
// keys and the log of changes of the old one. Meanwhile the accounts of the old one add up.
func TestBackupOfAServer(t *testing.T) {
	store, dir := home(t), t.TempDir()
	pimoe := func(want int, env string, args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), args...)
		cmd.Env = append(os.Environ(), "PIMOE_HOME="+store, env)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Fatalf("pimoe %s: exit code %d (%v), want %d\n%s", strings.Join(args, " "), code, err, want, out)
		}
		return string(out)
	}
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte("limits: {max_batch_size: 7}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, store)
	p.ready(t)
	status, b, err := p.ask(http.MethodPost, "/api/v1/jobs", "", jobBody)
	var job struct{ ID, State string }
	if err != nil || status != 202 || json.Unmarshal(b, &job) != nil {
		t.Fatalf("%d %s %v", status, b, err)
	}
	wait(t, "the job's end", func() bool {
		_, b, err := p.ask(http.MethodGet, "/api/v1/jobs/"+job.ID, "", "")
		return err == nil && json.Unmarshal(b, &job) == nil && job.State == "done"
	})
	_, want, err := p.ask(http.MethodGet, "/api/v1/jobs/"+job.ID+"/result", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if status, body := p.change(t, "e2", "restart", `{"replica":0}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	addr := "PIMOE_SERVER__ADMIN_ADDR=" + p.cmd.Args[5]
	checkAccounts(t, pimoe(0, addr, "report", "cost", "-o", "json"))
	if text := pimoe(0, addr, "report", "cost", "--by", "expert", "-o", "csv"); !strings.HasPrefix(text, "model,group,layer,expert,rows,cpu_seconds,read_bytes,joules\n") || !strings.Contains(text, ",e7,,(idle),0,") {
		t.Errorf("by expert: %s", text)
	}
	if text := pimoe(0, addr, "report", "cost", "--by", "expert"); !strings.Contains(text, "GROUP") || !strings.Contains(text, "(idle)") {
		t.Errorf("by expert: %s", text)
	}
	file := filepath.Join(dir, "backup.tar.gz")
	pimoe(0, addr, "backup", "create", file, "--config", config)
	if left, _ := filepath.Glob(filepath.Join(store, "state.db.*")); len(left) > 0 {
		t.Errorf("left beside the database: %v", left)
	}
	if out := pimoe(2, addr, "backup", "create", file); !strings.Contains(out, "is there already") {
		t.Errorf("over a backup: %s", out)
	}
	p.cmd.Process.Kill()
	<-p.exited

	old := store
	store = home(t)
	if err := os.Symlink(filepath.Join(old, "models"), filepath.Join(store, "models")); err != nil { // a model that is imported anew
		t.Fatal(err)
	}
	pimoe(0, "A=b", "backup", "verify", file)
	pimoe(0, "A=b", "backup", "restore", file)
	if out := pimoe(2, "A=b", "backup", "restore", file); !strings.Contains(out, "is there already") {
		t.Errorf("over a home: %s", out)
	}
	if b, err := os.ReadFile(filepath.Join(store, "config.yaml")); err != nil || !strings.Contains(string(b), "max_batch_size: 7") {
		t.Errorf("the configuration: %s %v", b, err)
	}
	if out := pimoe(0, "A=b", "audit", "verify"); !strings.Contains(out, "all as they were written") {
		t.Error(out)
	}
	n := launch(t, store)
	n.ready(t)
	status, got, err := n.ask(http.MethodGet, "/api/v1/jobs/"+job.ID+"/result", "", "")
	if err != nil || status != 200 || string(got) != string(want) {
		t.Errorf("the job's result in the new home: %d %s %v\nwant %s", status, got, err, want)
	}
	if out := pimoe(0, "A=b", "audit", "show", "--action", "experts."); !strings.Contains(out, "experts.restart") {
		t.Errorf("the old server's changes: %s", out)
	}
	if err := n.terminate(); err != nil {
		t.Error(err)
	}
}

// checkAccounts: the tenants of a report add up to its total, the experts to their groups, and each part has used something.
func checkAccounts(t *testing.T, text string) {
	t.Helper()
	var r cost.Report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	cpu, bytes, tokens := 0.0, int64(0), int64(0)
	for _, tenant := range r.Tenants {
		cpu, bytes, tokens = cpu+tenant.CPUSeconds, bytes+tenant.ReadBytes, tokens+tenant.Tokens
	}
	if math.Abs(cpu-r.Total.CPUSeconds) > 1e-6 || bytes != r.Total.ReadBytes || tokens != r.Tokens || tokens < 24 {
		t.Errorf("tenants: %f s, %d bytes, %d tokens; in all %+v, %d tokens", cpu, bytes, tokens, r.Total, r.Tokens)
	}
	parts, experts := map[string]cost.PartCost{}, map[string]cost.PartCost{}
	for _, e := range r.Parts {
		parts[e.Name] = e
	}
	for _, x := range r.Experts {
		sum := experts[x.Group]
		sum.CPUSeconds, sum.ReadBytes = sum.CPUSeconds+x.CPUSeconds, sum.ReadBytes+x.ReadBytes
		experts[x.Group] = sum
	}
	for group, sum := range experts {
		if math.Abs(sum.CPUSeconds-parts[group].CPUSeconds) > 1e-6 || sum.ReadBytes != parts[group].ReadBytes {
			t.Errorf("the experts of %s: %+v; the group %+v", group, sum.Figures, parts[group].Figures)
		}
	}
	if len(experts) != 8 {
		t.Errorf("experts of %d groups", len(experts))
	}
	for _, name := range []string{"host", "router", "e0", "e7"} {
		if e := parts[name]; e.CPUSeconds <= 0 || name != "router" && e.ReadBytes <= 0 {
			t.Errorf("%s has used nothing: %+v", name, e)
		}
	}
}
