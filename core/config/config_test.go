package config

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/sdk"
)

func writeFile(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// problemLines is the text of every problem of an error.
func problemLines(t *testing.T, err error) []string {
	t.Helper()
	var ps Problems
	if !errors.As(err, &ps) {
		t.Fatalf("error %v (%T), want Problems", err, err)
	}
	if !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("%v is not sdk.ErrInvalid", err)
	}
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return lines
}

func TestDefaultsAreValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
	got, warnings, err := Load(LoadOptions{Environ: []string{"HOME=/home/x"}})
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	want := defaults([]string{"HOME=/home/x"})
	want.Experts.Overrides = []Override{}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got.Home != "/home/x/.local/share/pimoe" {
		t.Error("home", got.Home)
	}
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, "c.yaml", "mode: high_performance\nlimits: {max_batch_size: 7, threads: 3, max_queued_requests: 11}\nrouter: {params: {seed: 1, x.y: true}}\n", 0o600)
	env := []string{"PIMOE_CONFIG=" + file, "PIMOE_LIMITS__THREADS=4", "PIMOE_MAX_SEQUENCE_LENGTH=99", "PIMOE_LIMITS__MAX_QUEUED_REQUESTS=12",
		"PIMOE_REQUEST_TIMEOUT=1m30s", "PIMOE_LOG_LEVEL=warn", "PIMOE_ROUTER__PARAMS__SEED=2", "PIMOE_MODEL=", "XDG_DATA_HOME=/data"}
	cfg, warnings, err := Load(LoadOptions{Environ: env, Flags: []Setting{{"limits.threads", "5", "--threads"}, {"experts.group", "{a: [{layers: all, experts: 0-7}]}", "--set"}}})
	if err != nil || len(warnings) != 0 {
		t.Fatal(warnings, err)
	}
	l := cfg.Limits
	for name, c := range map[string]struct{ got, want any }{
		"file over preset":     {l.MaxBatchSize, 7},
		"preset over default":  {l.MaxBatchTokens, 2048},
		"env over file":        {l.MaxQueuedRequests, 12},
		"flag over env":        {l.Threads, 5},
		"flat name":            {l.MaxSequenceLength, 99},
		"duration":             {l.RequestTimeout, 90 * time.Second},
		"map entry, dotted":    {cfg.Router.Params, map[string]string{"seed": "2", "x.y": "true"}},
		"map over a word":      {cfg.Experts.Group, any(map[string]any{"a": []any{map[string]any{"layers": "all", "experts": "0-7"}}})},
		"default":              {cfg.Experts.Backend, "cpu"},
		"home from XDG":        {cfg.Home, "/data/pimoe"},
		"log level":            {cfg.Log.Level, "warn"},
		"empty variable = off": {cfg.Model, ""},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", name, c.got, c.want)
		}
	}
	base := []Setting{{"log.level", "error", "eval"}, {"limits.threads", "9", "eval"}}
	if cfg, _, err = Load(LoadOptions{Environ: []string{"PIMOE_MODE=development"}, Base: base}); err != nil || cfg.Log.Level != "debug" || cfg.Limits.Threads != 9 {
		t.Errorf("a command's defaults: %+v %+v %v", cfg.Log, cfg.Limits, err)
	}
	other := writeFile(t, "d.yaml", "limits: {threads: 1}\n", 0o600)
	if cfg, _, err = Load(LoadOptions{File: other, Environ: env[:1]}); err != nil || cfg.Limits.Threads != 1 || cfg.Limits.MaxBatchSize != 32 {
		t.Errorf("--config does not replace PIMOE_CONFIG: %+v %v", cfg.Limits, err)
	}
}

func TestWordOverMap(t *testing.T) {
	file := writeFile(t, "c.yaml", "experts: {group: {a: [{layers: all, experts: all}]}}", 0o600)
	cfg, _, err := Load(LoadOptions{File: file, Environ: []string{"PIMOE_EXPERTS__GROUP=layer"}})
	if err != nil || cfg.Experts.Group != "layer" {
		t.Errorf("%v %v", cfg.Experts.Group, err)
	}
}

func TestFileProblems(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		want []string // a part of each problem, in order
	}{
		"unknown": {"limits:\n  max_batch_sise: 3\n", []string{"c.yaml:2: limits.max_batch_sise: unknown key; did you mean limits.max_batch_size?"}},
		"unknown at the top, in a section elsewhere": {"max_batch_size: 3", []string{"c.yaml:1: max_batch_size: unknown key; did you mean limits.max_batch_size?"}},
		"settings of features that do not exist":     {"cash: {ttl: 3600s}\nrate_limit: 100", []string{"cash: unknown key", "rate_limit: unknown key"}},
		"unknown in a list":                          {"experts: {overrides: [{layers: all, experts: 0, backnd: ref}]}", []string{"experts.overrides[0].backnd: unknown key; did you mean experts.overrides[].backend?", `experts.overrides[0]: want backend`}},
		"all at once": {"mode: fast\nlimits: {threads: -1, max_batch_size: many, request_timeout: 30}\npolicy: lenient\n", []string{
			`limits.max_batch_size: "many" is wrong: want a whole number from 1 to 4096`, `limits.request_timeout: "30" is wrong: want a duration with its unit`,
			`mode: "fast" is wrong: want one of production, development`, `policy: "lenient" is wrong: want one of strict, fallback, renormalise, substitute`, `limits.threads: "-1" is wrong: want a whole number from 0`}},
		"fallback without a backend": {"policy: fallback", []string{`policy: "fallback" is wrong: want a backend of another numeric class in fallback`}},
		"substitute without experts": {"policy: substitute", []string{`policy: "substitute" is wrong: want the experts that stand in`}},
		"a substitute of itself":     {"policy: substitute\ndegraded: {substitutes: {3: 3}}", []string{`degraded.substitutes: "3: 3" is wrong: want an expert's number and that of another one`}},
		"mass above one":             {"degraded: {max_dropped_mass: 1.5, min_experts: 0}", []string{`degraded.min_experts: "0" is wrong`, `degraded.max_dropped_mass: "1.5" is wrong: want a number from 0 to 1`}},
		"no mass":                    {"degraded: {max_dropped_mass: much}", []string{`degraded.max_dropped_mass: "much" is wrong: want a number such as 0.25`}},
		"means without a policy":     {"degraded: {fallback: {backend: int8}, substitutes: {1: 2}}", []string{`degraded.fallback: want policy fallback somewhere`, `degraded.substitutes: want policy substitute somewhere`}},
		"an override without effect": {"experts: {overrides: [{layers: all, experts: 1, fallback: {backend: int8}}, {layers: all, experts: 2, policy: lenient}, {layers: all, experts: 3, substitutes: {1: 2}}]}", []string{
			`experts.overrides[0].fallback: want policy fallback with it: it has no effect under policy strict`, `experts.overrides[1].policy: "lenient" is wrong: want one of strict, fallback`,
			`experts.overrides[2].substitutes: want policy substitute with it`}},
		"a class of another backend": {"policy: fallback\ndegraded: {fallback: {backend: int8, precision: f32}}", []string{`degraded.fallback.precision: "f32" is wrong: want one of auto, int8g32: backend int8 computes in no other class`}},
		"not a whole number":         {"limits: {threads: 1.5}", []string{`limits.threads: "1.5" is wrong: want a whole number from 0 to 4096`}},
		"a list where a word goes":   {"model: [a]", []string{"model: \"a list\" is wrong: want a word"}},
		"a word where a map goes":    {"limits: 3", []string{`limits: "3" is wrong: want a map of max_batch_size`}},
		"twice":                      {"model: a\nmodel: b", []string{"c.yaml:2: model: want to be given once"}},
		"alias":                      {"model: &a x\nhome: *a", []string{"anchors and aliases", "anchors and aliases"}},
		"two documents":              {"model: a\n---\nmodel: b", []string{"one YAML document"}},
		"not a map":                  {"- a", []string{"want a map of model"}},
		"group word":                 {"experts: {group: process}", []string{`experts.group: "process" is wrong`}},
		"group map":                  {"experts: {group: {a: [{layers: all}]}}", []string{"experts.group.a[0].experts: want all, a number"}},
		"group entry":                {"experts: {group: {a: [{layers: all, experts: all, backend: ref}]}}", []string{"experts.group.a[0].backend: unknown key; want layers or experts"}},
		"group name":                 {"experts: {group: {a/b: [{layers: all, experts: all}]}}", []string{"group names"}},
		"unknown in a rate":          {"limits: {rates: [{rate: 1}]}", []string{`limits.rates[0].rate: unknown key`}},
		"rates": {"limits: {rates: [{role: boss, requests: 1}, {per: tenant, key: a, tokens: -1}, {per: group, tenant: \"a b\"}], weights: {acme: 0, other: many}}", []string{
			`limits.rates[1].tokens: "-1" is wrong`, `limits.rates[0].role: "boss" is wrong: want one of viewer`, `limits.rates[1].key: "a" is wrong: want nothing with per: tenant`,
			`limits.rates[2].per: "group" is wrong: want principal or tenant`, `limits.rates[2].tenant: "a b" is wrong`,
			`limits.weights: "0" is wrong: want for acme a whole number from 1 to 1000`, `limits.weights: "many" is wrong`}},
		"a device that is none": {"experts: {backend: cuda, device: gpu0}", []string{`experts.device: "gpu0" is wrong: want auto or the number of a device`}},
		"a device of a processor": {"experts: {device: 0, overrides: [{layers: all, experts: 1, backend: cuda, device: 100}, {layers: all, experts: 2, backend: int8, device: 1}]}", []string{
			`experts.device: "0" is wrong: want auto: backend cpu computes on the processor`, `experts.overrides[0].device: "100" is wrong`, `experts.overrides[1].device: "1" is wrong: want auto: backend int8`}},
		"selection":               {"experts: {overrides: [{layers: 3-1, experts: all, backend: ref}]}", []string{`experts.overrides[0].layers: "3-1" is wrong`}},
		"path as a name":          {"experts: {backend: ../x}\nrouter: {plugin: /bin/sh}", []string{`router.plugin: "/bin/sh"`, `experts.backend: "../x"`}},
		"public without a key":    {"server: {addr: 0.0.0.0:8080}", []string{"set PIMOE_API_KEY or PIMOE_API_KEY_FILE"}},
		"a name is not loopback":  {"server: {addr: 'example.org:8080'}", []string{"loopback address"}},
		"public admin":            {"server: {admin_addr: '0.0.0.0:1'}", []string{"server.admin_addr"}},
		"no port":                 {"server: {addr: localhost}", []string{"HOST:PORT"}},
		"same address":            {"server: {addr: '127.0.0.1:1', admin_addr: '127.0.0.1:1'}", []string{"another address"}},
		"batch of fewer tokens":   {"limits: {max_batch_tokens: 8}", []string{"at least limits.max_batch_size (32)"}},
		"more replicas than room": {"experts: {replicas: 3, max_processes: 2}", []string{"at most experts.max_processes (2)"}},
		"key with a newline":      {"api_key: \"a\\nb\"", []string{"api_key: want printable"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Load(LoadOptions{File: writeFile(t, "c.yaml", c.yaml, 0o600), Environ: []string{}})
			if err == nil {
				t.Fatal("accepted")
			}
			lines := problemLines(t, err)
			if len(lines) != len(c.want) {
				t.Fatalf("%d problems, want %d:\n%s", len(lines), len(c.want), strings.Join(lines, "\n"))
			}
			for i := range lines {
				if !strings.Contains(lines[i], c.want[i]) {
					t.Errorf("problem %d: %s\nwant it to contain: %s", i, lines[i], c.want[i])
				}
			}
		})
	}
}

func TestUnreadableFiles(t *testing.T) {
	for name, path := range map[string]string{
		"missing":  filepath.Join(t.TempDir(), "none.yaml"),
		"no YAML":  writeFile(t, "a.yaml", "a: [", 0o600),
		"too long": writeFile(t, "b.yaml", "# "+strings.Repeat("x", maxFile), 0o600),
	} {
		if _, _, err := Load(LoadOptions{File: path, Environ: []string{}}); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), filepath.Base(path)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, empty := range []string{"", "# only a comment\n", "model:\n"} {
		if _, _, err := Load(LoadOptions{File: writeFile(t, "e.yaml", empty, 0o600), Environ: []string{}}); err != nil {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	_, warnings, err := Load(LoadOptions{Environ: []string{"PIMOE_SERVICE_HOST=10.0.0.1", "PIMOE_PORT=tcp://10.0.0.1:80", "PIMOE_MODLE=x",
		"PIMOE_CPU=generic", "PIMOE_TEST_STRICT=1", "OTHER=1"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "PIMOE_SERVICE_HOST") || !strings.Contains(warnings[0], "PIMOE_MODLE (did you mean PIMOE_MODEL?)") ||
		strings.Contains(warnings[0], "PIMOE_CPU") {
		t.Errorf("warnings %q, want one that names the unknown variables", warnings)
	}
	_, _, err = Load(LoadOptions{Environ: []string{"PIMOE_MAX_BATCH_SIZE=x", "PIMOE_ROUTER__PARAMS=[", "PIMOE_POLICY=none"}})
	lines := problemLines(t, err)
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "PIMOE_MAX_BATCH_SIZE: limits.max_batch_size:") {
		t.Errorf("%q", lines)
	}
	_, _, err = Load(LoadOptions{Environ: []string{"PIMOE_MAX_BATCH_SIZE=3", "PIMOE_LIMITS__MAX_BATCH_SIZE=4"}})
	if lines := problemLines(t, err); len(lines) != 1 || !strings.Contains(lines[0], "set once") {
		t.Errorf("%q", lines)
	}
	if _, _, err = Load(LoadOptions{Environ: []string{"PIMOE_MAX_BATCH_SIZE=3", "PIMOE_LIMITS__MAX_BATCH_SIZE=3"}}); err != nil {
		t.Errorf("the same value twice: %v", err)
	}
}

func TestSecretFile(t *testing.T) {
	load := func(env ...string) (Config, []string, error) { return Load(LoadOptions{Environ: env}) }
	cfg, warnings, err := load("PIMOE_API_KEY_FILE="+writeFile(t, "k", "s3cr3t-Vq9xT2mLw8\n", 0o600), "PIMOE_SERVER__ADDR=0.0.0.0:80")
	if err != nil || cfg.APIKey != "s3cr3t-Vq9xT2mLw8" || len(warnings) != 0 {
		t.Errorf("key %q, warnings %q, %v", cfg.APIKey, warnings, err)
	}
	cfg, warnings, err = load("PIMOE_API_KEY_FILE=" + writeFile(t, "k", "s3cr3t-Vq9xT2mLw8", 0o644))
	if err != nil || cfg.APIKey != "s3cr3t-Vq9xT2mLw8" || len(warnings) != 1 || !strings.Contains(warnings[0], "read by others") {
		t.Errorf("readable file: key %q, warnings %q, %v", cfg.APIKey, warnings, err)
	}
	for name, env := range map[string][]string{
		"empty":   {"PIMOE_API_KEY_FILE=" + writeFile(t, "k", "\n", 0o600)},
		"missing": {"PIMOE_API_KEY_FILE=/nonexistent/key"},
		"both":    {"PIMOE_API_KEY=s3cr3t-Vq9xT2mLw8", "PIMOE_API_KEY_FILE=" + writeFile(t, "k", "s3cr3t-Vq9xT2mLw8", 0o600)},
		"long":    {"PIMOE_API_KEY_FILE=" + writeFile(t, "k", strings.Repeat("s3cr3t-Vq9xT2mLw8", 400), 0o600)},
		"two":     {"PIMOE_API_KEY_FILE=" + writeFile(t, "k", "s3cr3t-Vq9xT2mLw8\n\n", 0o600)}, // one newline is trimmed, no more
	} {
		if _, _, err := load(env...); err == nil || strings.Contains(err.Error(), "s3cr3t-Vq9xT2mLw8") {
			t.Errorf("%s: error %v, want one that does not show the key", name, err)
		}
	}
	_, _, err = Load(LoadOptions{Environ: []string{}, Flags: []Setting{{"api_key", "s3cr3t-Vq9xT2mLw8", "--set"}}})
	if err == nil || strings.Contains(err.Error(), "s3cr3t-Vq9xT2mLw8") || !strings.Contains(err.Error(), "PIMOE_API_KEY[_FILE]") {
		t.Errorf("a secret on the command line: %v", err)
	}
}

func TestFlags(t *testing.T) {
	_, _, err := Load(LoadOptions{Environ: []string{}, Flags: []Setting{{"limits.thread", "5", "--set"}, {"limits.threads", "x", "--threads"}, {"limits", "{threads: 1}", "--set"}}})
	if lines := problemLines(t, err); len(lines) != 3 || !strings.Contains(lines[0], "--set: limits.thread: unknown key; did you mean limits.threads?") ||
		!strings.Contains(lines[1], "--threads: limits.threads") || !strings.Contains(lines[2], "limits: unknown key") {
		t.Errorf("%q", lines)
	}
}

func TestModesChangeValues(t *testing.T) {
	for _, mode := range Modes() {
		cfg, _, err := Load(LoadOptions{Environ: []string{"PIMOE_MODE=" + mode}})
		if err != nil {
			t.Errorf("%s: %v", mode, err)
			continue
		}
		def := Default()
		changed := tree(reflect.ValueOf(cfg)).(map[string]any)
		base := tree(reflect.ValueOf(def)).(map[string]any)
		keys, values := Preset(mode)
		if (mode == "production") != (len(keys) == 0) {
			t.Errorf("%s changes %d keys", mode, len(keys))
		}
		for _, k := range keys {
			path := strings.Split(k, ".")
			if at(base, path) == values[k] {
				t.Errorf("%s: %s is the default anyway", mode, k)
			}
			if at(changed, path) != values[k] {
				t.Errorf("%s: %s is %v, want %v", mode, k, at(changed, path), values[k])
			}
		}
	}
}

// TestKeysMatchStruct holds the tables of keys.go against the struct.
func TestKeysMatchStruct(t *testing.T) {
	names := Names()
	for _, n := range names {
		if about[n] == "" {
			t.Errorf("%s has no description", n)
		}
	}
	known := func(table string, keys ...string) {
		for _, k := range keys {
			if !slices.Contains(names, k) {
				t.Errorf("%s names %s, which is no key", table, k)
			}
		}
	}
	for k := range about {
		known("about", k)
	}
	for k := range enums {
		known("enums", k)
	}
	for k := range bounds {
		known("bounds", k)
	}
	for _, k := range flat {
		known("flat", k)
	}
	for mode, p := range presets {
		if !slices.Contains(modes, mode) {
			t.Errorf("preset %s is no mode", mode)
		}
		for k := range p {
			known("preset "+mode, k)
		}
	}
	walk(reflect.TypeFor[Config](), "", func(key string, ft reflect.Type) {
		if _, ok := bounds[key]; (ft.Kind() == reflect.Int || ft == durationType) && !ok {
			t.Errorf("%s is a number without bounds", key)
		}
	})
}

func TestPrintRoundTrip(t *testing.T) {
	file := writeFile(t, "c.yaml", `
model: some/dir
experts:
  group: {fast: [{layers: all, experts: [0, 2-3]}], rest: [{layers: 0-3, experts: 1}]}
  overrides: [{layers: [0, 2-3], experts: 1, backend: ref, replicas: 2, policy: substitute, substitutes: {1: 3}}]
router: {plugin: hash, params: {seed: 3, text: "a: b"}}
policy: fallback
degraded: {max_dropped_mass: 0.4, fallback: {backend: int8}}
limits: {request_timeout: 90s}
`, 0o600)
	cfg, _, err := Load(LoadOptions{File: file, Environ: []string{"PIMOE_API_KEY=s3cr3t-Vq9xT2mLw8"}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := cfg.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "s3cr3t-Vq9xT2mLw8") || !strings.Contains(string(text), `api_key: "" # set, not shown`) {
		t.Errorf("secret:\n%s", text)
	}
	again, _, err := Load(LoadOptions{File: writeFile(t, "p.yaml", string(text), 0o600), Environ: []string{}})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	cfg.APIKey = ""
	if d := cmp.Diff(cfg, again); d != "" {
		t.Errorf("%s\n%s", d, text)
	}
}

func TestSchema(t *testing.T) {
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Properties map[string]struct {
			Properties           map[string]map[string]any
			AdditionalProperties any
		}
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	limits := s.Properties["limits"]
	if limits.AdditionalProperties != false || limits.Properties["max_batch_size"]["default"] != 32.0 || limits.Properties["request_timeout"]["default"] != "30s" {
		t.Errorf("limits: %v", limits)
	}
	if strings.Contains(string(b), Default().Home) {
		t.Error("the schema depends on the machine")
	}
}

// FuzzFile: no bytes make the loader panic, and what it accepts survives print and load.
func FuzzFile(f *testing.F) {
	for _, s := range []string{"", "model: a", "limits: {max_batch_size: 3, request_timeout: 1h}", "experts: {group: {a: [{layers: all, experts: [0, 1-3]}]}}",
		"experts: {overrides: [{layers: 1, experts: all, backend: ref}]}", "router: {params: {a: 1, b: {c: d}}}", "a: &x [*x]", "? [a]: b", "<<: {a: b}", "- - -", "\x00", "api_key: x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := Load(LoadOptions{File: path, Environ: []string{}})
		if err != nil {
			if err.Error() == "" {
				t.Error("empty error")
			}
			return
		}
		text, err := cfg.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		again, _, err := Load(LoadOptions{File: path, Environ: []string{}})
		cfg.APIKey = ""
		if err != nil && !strings.Contains(err.Error(), "API key") {
			t.Fatalf("%v\n%s", err, text)
		}
		if d := cmp.Diff(cfg, again); err == nil && d != "" {
			t.Errorf("%s\n%s", d, text)
		}
	})
}
