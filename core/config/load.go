package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/sdk"
)

// Setting is one value from the command line.
type Setting struct {
	Key, Value string // Value as text; lists and maps as YAML
	Flag       string // for messages, such as "--threads"
}

// LoadOptions say where to look.
type LoadOptions struct {
	File    string    // YAML file; empty = PIMOE_CONFIG, or none
	Environ []string  // KEY=value; nil = the process's environment
	Base    []Setting // a command's own defaults; everything that the operator sets wins, the mode too
	Flags   []Setting // later ones win
}

// maxFile bounds a configuration file: a megabyte is more than a hundred times the largest that makes sense.
const maxFile = 1 << 20

// sep separates nested keys inside koanf. It is not a dot, so that names with dots stay whole.
const sep = "\x1f"

// Default is the configuration of mode production with nothing set.
func Default() Config { return defaults(os.Environ()) }

func defaults(environ []string) Config {
	return Config{
		Home: home(environ),
		Mode: modes[0],
		Server: Server{
			Addr: "127.0.0.1:8080", AdminAddr: "127.0.0.1:8081", GRPCAddr: "off", DrainTimeout: 30 * time.Second, TLS: TLS{ClientAuth: "none"},
		},
		Router:  Router{Plugin: "model", Params: map[string]string{}},
		Experts: Experts{Group: "expert", MaxProcesses: 64, Backend: "cpu", Precision: "auto", Device: "auto", Replicas: 1, Scaling: Scaling{BusyPercent: 75, Window: 10 * time.Second, CoolDown: 30 * time.Second}, Hedge: "on", RecheckOneIn: 1000, RecheckBy: "replicas", Remote: []Remote{}, Transport: "auto", Isolation: "process"},
		Trunk:   Trunk{Backend: "cpu", Precision: "auto"},
		KVCache: KVCache{DType: "f32"},
		Policy:  "strict", Degraded: Degraded{MaxDroppedMass: 0.25, MinExperts: 1, Substitutes: map[string]string{}},
		Limits: Limits{
			MaxBatchSize: 32, MaxBatchTokens: 512, MaxSequenceLength: 2048, MaxConcurrentRequests: 100,
			MaxQueuedRequests: 1000, RequestTimeout: 30 * time.Second, MaxRetries: 2, CircuitBreakerThreshold: 10,
			Rates: []Rate{}, Weights: map[string]string{}, SlowdownPercent: 5, MaxQueueTime: 2 * time.Second, ConnectionsPerClient: 512,
		},
		Auth: defaultAuth(),
		Web:  defaultWeb(),
		Log:  Log{Level: "info", Format: "auto", Mask: []string{"email", "card", "phone"}},
		Jobs: defaultJobs(), Idempotency: defaultIdempotency(),
		Plugins: Plugins{Dir: executableDir(), Confine: "strict", Users: "auto"},
		Redis:   defaultRedis(),
		Cache:   defaultCache(),
		Metrics: defaultMetrics(),
		Alerts:  defaultAlerts(),
		Tracing: defaultTracing(), Profiling: defaultProfiling(),
	}
}

func home(environ []string) string {
	env := lookup(environ)
	if d := env["XDG_DATA_HOME"]; filepath.IsAbs(d) { // the XDG specification says to ignore relative ones
		return filepath.Join(d, "pimoe")
	}
	h := env["HOME"]
	if runtime.GOOS == "windows" {
		h = env["USERPROFILE"]
	}
	if h == "" {
		h = os.TempDir() // a container without a home; PIMOE_HOME is how to name a lasting place
	}
	return filepath.Join(h, ".local", "share", "pimoe")
}

func executableDir() string {
	exe, err := os.Executable()
	if err != nil {
		return "."
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	return filepath.Dir(exe)
}

// Load reads the configuration: flag > environment > file > mode > defaults. It returns what is worth a warning, and a
// Problems error with everything that is wrong at once. The Config is only usable without an error.
func Load(o LoadOptions) (Config, []string, error) {
	environ := o.Environ
	if environ == nil {
		environ = os.Environ()
	}
	var problems []Problem
	fileTree, err := readFile(o.File, environ, &problems)
	if err != nil {
		return Config{}, nil, err
	}
	envTree, warnings := readEnv(environ, &problems)
	baseTree := readFlags(o.Base, &problems)
	flagTree := readFlags(o.Flags, &problems)

	k := koanf.New(sep)
	def := defaults(environ)
	layers := []map[string]any{tree(reflect.ValueOf(def)).(map[string]any), baseTree, nil, fileTree, envTree, flagTree}
	layers[2] = preset(chosenMode(layers))
	for _, l := range layers {
		if err := k.Load(confmap.Provider(l, ""), nil); err != nil {
			return Config{}, nil, fmt.Errorf("merge configuration: %w", err)
		}
	}
	var cfg Config
	if err := k.UnmarshalWithConf("", &cfg, koanf.UnmarshalConf{Tag: "koanf"}); err != nil {
		return Config{}, nil, fmt.Errorf("merge configuration: %w", err)
	}
	noted := map[string]bool{}
	for _, p := range problems {
		noted[p.Key] = true
	}
	for _, p := range cfg.problems() { // a value that could not be read is reported once
		if !noted[p.Key] {
			problems = append(problems, p)
		}
	}
	if len(problems) > 0 {
		return cfg, warnings, Problems(problems)
	}
	return cfg, warnings, nil
}

// chosenMode is the mode of the uppermost layer that names one.
func chosenMode(layers []map[string]any) string {
	mode := modes[0]
	for _, l := range layers {
		if m, ok := l["mode"].(string); ok {
			mode = m
		}
	}
	return mode
}

func preset(mode string) map[string]any {
	out := map[string]any{}
	for key, v := range presets[mode] { // an unknown mode has none, and Validate names it
		set(out, strings.Split(key, "."), v)
	}
	return out
}

// set puts a value at a path, making maps on the way.
func set(m map[string]any, path []string, v any) {
	for _, p := range path[:len(path)-1] {
		next, ok := m[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[p] = next
		}
		m = next
	}
	m[path[len(path)-1]] = v
}

func readFile(path string, environ []string, problems *[]Problem) (map[string]any, error) {
	if path == "" {
		path = lookup(environ)["PIMOE_CONFIG"]
	}
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", errors.Join(sdk.ErrInvalid, err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read configuration %s: larger than %d bytes: %w", path, maxFile, sdk.ErrInvalid)
	}
	return parse(path, b, problems)
}

// parse reads the bytes of a YAML file. Its error means that the bytes are no YAML at all.
func parse(name string, b []byte, problems *[]Problem) (map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read configuration %s: %v: %w", name, err, sdk.ErrInvalid)
	}
	r := reader{source: name, lines: true}
	v, _ := r.read("", doc.Content[0], reflect.TypeFor[Config]())
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		r.note("", nil, "", "one YAML document in the file")
	}
	*problems = append(*problems, r.problems...)
	out, _ := v.(map[string]any)
	return out, nil
}

// readText reads the text of a variable or a flag into the layer at key.
func readText(layer map[string]any, source, key, text string, problems *[]Problem) {
	t, ok := typeOf(key)
	if !ok {
		*problems = append(*problems, Problem{Key: key, Source: source, Unknown: true, Near: nearest(key, Names())})
		return
	}
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if k := t.Kind(); k == reflect.Slice || k == reflect.Map || k == reflect.Interface || k == reflect.Struct {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
			*problems = append(*problems, Problem{Key: key, Value: short(text), Source: source, Want: "YAML, such as [a, b] or {a: b}"})
			return
		}
		node = doc.Content[0]
	}
	r := reader{source: source}
	if v, ok := r.read(key, node, t); ok {
		set(layer, strings.Split(key, "."), v)
	}
	if isSecret(key) { // never echoed, whatever is wrong with it
		for i := range r.problems {
			r.problems[i].Value = ""
		}
	}
	*problems = append(*problems, r.problems...)
}

func readFlags(flags []Setting, problems *[]Problem) map[string]any {
	layer := map[string]any{}
	for _, s := range flags {
		if isSecret(s.Key) {
			*problems = append(*problems, Problem{Key: s.Key, Source: s.Flag,
				Want: "to come from " + envName(s.Key) + "[_FILE]: a command line is visible to every process"})
			continue
		}
		readText(layer, s.Flag, s.Key, s.Value, problems)
	}
	return layer
}

// readEnv reads the PIMOE_ variables. An empty variable counts as not set. All unknown ones make one warning, because
// Kubernetes injects some for a Service named pimoe.
func readEnv(environ []string, problems *[]Problem) (layer map[string]any, warnings []string) {
	layer = map[string]any{}
	vars := lookup(environ)
	names := make([]string, 0, len(vars))
	for n := range vars {
		if strings.HasPrefix(n, "PIMOE_") {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	taken := map[string]string{} // key -> variable that set it
	var unknown []string
	for _, name := range names {
		text := vars[name]
		key, file, known := settingOf(name)
		switch {
		case known && key == "": // not a setting
			continue
		case !known:
			unknown = append(unknown, name)
			continue
		case text == "":
			continue
		}
		if other, twice := taken[key]; twice && (file || vars[other] != text) {
			*problems = append(*problems, Problem{Key: key, Source: name, Want: "to be set once, but " + other + " is set too"})
			continue
		}
		taken[key] = name
		if file {
			secret, warning, err := readSecret(name, text)
			if err != nil {
				*problems = append(*problems, Problem{Key: key, Source: name, Want: err.Error()})
				continue
			}
			if warning != "" {
				warnings = append(warnings, warning)
			}
			text = secret
		}
		readText(layer, name, key, text, problems)
	}
	if len(unknown) > 0 {
		warnings = append(warnings, unknownWarning(unknown))
	}
	return layer, warnings
}

func unknownWarning(names []string) string {
	var known []string
	for _, k := range Keys() {
		if k.Env != "" {
			known = append(known, strings.TrimPrefix(k.Env, "PIMOE_"))
		}
	}
	for i, n := range names {
		if near := nearest(strings.TrimPrefix(n, "PIMOE_"), known); near != "" {
			names[i] = n + " (did you mean PIMOE_" + near + "?)"
		}
	}
	return "unknown environment variables have no effect: " + strings.Join(names, ", ")
}

// settingOf is the key that a variable sets and whether it names a file that holds the value. A known variable with an
// empty key is no setting.
func settingOf(name string) (key string, file, known bool) {
	if slices.Contains(otherEnv, name) {
		return "", false, true
	}
	for _, p := range otherEnvPrefixes {
		if strings.HasPrefix(name, p) {
			return "", false, true
		}
	}
	if k, ok := flat[name]; ok {
		return k, false, true
	}
	key = strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "PIMOE_")), "__", ".")
	if _, ok := typeOf(key); ok {
		return key, false, true
	}
	if k, ok := strings.CutSuffix(key, "_file"); ok && isSecret(k) {
		return k, true, true
	}
	return "", false, false
}

// readSecret reads the file of a secret. One newline at the end is not part of it. A file that others may read is
// worth a warning, no refusal: mounted secrets often are. The group may: that is how Kubernetes mounts one for a process
// that is not root.
func readSecret(variable, path string) (secret, warning string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", fmt.Errorf("a readable file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return "", "", fmt.Errorf("a readable file: %w", err)
	case len(b) > maxSecret:
		return "", "", fmt.Errorf("a file of at most %d bytes", maxSecret)
	}
	secret = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if secret == "" {
		return "", "", errors.New("a file that is not empty")
	}
	if st, err := f.Stat(); err == nil && runtime.GOOS != "windows" && st.Mode().Perm()&0o027 != 0 {
		warning = fmt.Sprintf("%s: %s can be read by others (mode %04o); chmod 600 keeps it to you", variable, path, st.Mode().Perm())
	}
	return secret, warning, nil
}

// maxSecret is far more than any key and less than any file named by mistake.
const maxSecret = 4096

// typeOf is the type of a dotted key; entries of a map are text.
func typeOf(key string) (reflect.Type, bool) {
	t := reflect.TypeFor[Config]()
	for name := range strings.SplitSeq(key, ".") {
		switch t.Kind() {
		case reflect.Struct:
			f, ok := field(t, name)
			if !ok {
				return nil, false
			}
			t = f.Type
		case reflect.Map:
			if name == "" {
				return nil, false
			}
			t = t.Elem()
		default:
			return nil, false
		}
	}
	return t, t.Kind() != reflect.Struct
}

func isSecret(key string) bool {
	t := reflect.TypeFor[Config]()
	var f reflect.StructField
	for name := range strings.SplitSeq(key, ".") {
		if t.Kind() != reflect.Struct {
			return false
		}
		var ok bool
		if f, ok = field(t, name); !ok {
			return false
		}
		t = f.Type
	}
	return f.Tag.Get("secret") == "true"
}

func envName(key string) string {
	return "PIMOE_" + strings.ToUpper(strings.ReplaceAll(key, ".", "__"))
}

func lookup(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, e := range environ {
		if k, v, ok := strings.Cut(e, "="); ok {
			m[k] = v
		}
	}
	return m
}

// FileOf is the file that Load would read with these; empty for none.
func FileOf(file string, environ []string) string {
	if file != "" {
		return file
	}
	return lookup(environ)["PIMOE_CONFIG"]
}
