package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pimoe/pimoe/sdk"
)

// Problem is one thing that is wrong: which key, with which value, and what would be right.
type Problem struct {
	Key    string
	Value  string // empty where it says nothing, and for secrets
	Want   string // what is allowed
	Source string // file and line, variable or flag; empty for a value that several keys make wrong together
	// Unknown says that the key does not exist; Near is the existing key that was probably meant.
	Unknown bool
	Near    string
}

// String is one line.
func (p Problem) String() string {
	var b strings.Builder
	if p.Source != "" {
		b.WriteString(p.Source + ": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	switch {
	case p.Unknown && p.Near != "":
		b.WriteString("unknown key; did you mean " + p.Near + "?")
	case p.Unknown:
		b.WriteString("unknown key")
		if p.Want != "" {
			b.WriteString("; want " + p.Want)
		}
	case p.Value != "":
		fmt.Fprintf(&b, "%q is wrong: want %s", p.Value, p.Want)
	default:
		b.WriteString("want " + p.Want)
	}
	return b.String()
}

// Problems are all problems of a configuration; as an error it is sdk.ErrInvalid.
type Problems []Problem

// Error is one line with every problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return "configuration: " + strings.Join(lines, "; ")
}

// Unwrap makes it sdk.ErrInvalid.
func (p Problems) Unwrap() error { return sdk.ErrInvalid }

// Validate reports every problem at once, as Problems, or nil.
func (c Config) Validate() error {
	if p := c.problems(); len(p) > 0 {
		return Problems(p)
	}
	return nil
}

func (c Config) problems() []Problem {
	v := &validator{}
	v.table("", reflect.ValueOf(c))
	v.addresses(c)
	v.server(c)
	v.plugins(c)
	v.auth(c)
	v.rates(c.Limits)
	v.web(c.Web)
	v.tls(c.Server.TLS)
	v.redis(c.Redis)
	v.cache(c)
	v.alerts(c.Alerts)
	v.mask(c.Log.Mask)
	v.placement(c.Experts)
	v.remote(c.Experts)
	if c.Limits.MemoryMB > 0 && c.Experts.Isolation == "inproc" {
		v.bad("limits.memory_mb", strconv.Itoa(c.Limits.MemoryMB), "0 with experts.isolation inproc: there are no expert processes")
	}
	v.policies(c)
	v.state(c)
	v.metrics(c.Metrics)
	v.tracing(c.Tracing)
	v.profiling(c.Profiling)
	if c.Limits.MaxBatchTokens >= 1 && c.Limits.MaxBatchTokens < c.Limits.MaxBatchSize {
		v.bad("limits.max_batch_tokens", strconv.Itoa(c.Limits.MaxBatchTokens),
			fmt.Sprintf("at least limits.max_batch_size (%d): each running sequence takes one token a step", c.Limits.MaxBatchSize))
	}
	return v.problems
}

type validator struct{ problems []Problem }

func (v *validator) bad(key, val, want string) {
	v.problems = append(v.problems, Problem{Key: key, Value: short(val), Want: want})
}

// table checks the keys that are enumerations or bounded numbers, by the tables of keys.go.
func (v *validator) table(key string, val reflect.Value) {
	general := generalKey(key)
	switch x := val.Interface().(type) {
	case string:
		if allowed, ok := enums[general]; ok && !slices.Contains(allowed, x) {
			v.bad(key, orEmpty(x), allowedWords(key, allowed))
		}
		return
	case int:
		if b, ok := bounds[general]; ok && (int64(x) < b[0] || int64(x) > b[1]) {
			v.bad(key, strconv.Itoa(x), "a whole number"+boundsText(key))
		}
		return
	case time.Duration:
		if b, ok := bounds[general]; ok && (x < time.Duration(b[0])*time.Millisecond || x > time.Duration(b[1])*time.Millisecond) {
			v.bad(key, x.String(), "a duration"+boundsText(key))
		}
		return
	}
	switch val.Kind() {
	case reflect.Struct:
		for i := range val.NumField() {
			v.table(join(key, val.Type().Field(i).Tag.Get("koanf")), val.Field(i))
		}
	case reflect.Slice:
		for i := range val.Len() {
			v.table(fmt.Sprintf("%s[%d]", key, i), val.Index(i))
		}
	}
}

func allowedWords(key string, allowed []string) string {
	want := strings.Join(allowed, ", ")
	if len(allowed) > 1 {
		want = "one of " + want
	}
	return want
}

func (v *validator) addresses(c Config) {
	loopback, err := checkAddr(c.Server.Addr)
	switch {
	case err != nil:
		v.bad("server.addr", orEmpty(c.Server.Addr), "HOST:PORT: "+err.Error())
	case !loopback && !c.guarded():
		v.bad("server.addr", c.Server.Addr, "a loopback address such as 127.0.0.1:8080 while no API key is set; "+
			"set PIMOE_API_KEY or PIMOE_API_KEY_FILE, make a key with pimoe keys create, or set auth.jwt to listen there")
	}
	v.grpcAddress(c)
	if c.Server.AdminAddr == "off" {
		return
	}
	loopback, err = checkAddr(c.Server.AdminAddr)
	switch {
	case err != nil:
		v.bad("server.admin_addr", orEmpty(c.Server.AdminAddr), "HOST:PORT or off: "+err.Error())
	case !loopback:
		v.bad("server.admin_addr", c.Server.AdminAddr, "a loopback address or off: the admin API stops and starts processes")
	case c.Server.AdminAddr == c.Server.Addr && !strings.HasSuffix(c.Server.Addr, ":0"):
		v.bad("server.admin_addr", c.Server.AdminAddr, "another address than server.addr")
	}
}

func (v *validator) grpcAddress(c Config) {
	addr := c.Server.GRPCAddr
	if addr == "off" {
		return
	}
	loopback, err := checkAddr(addr)
	switch {
	case err != nil:
		v.bad("server.grpc_addr", orEmpty(addr), "HOST:PORT or off: "+err.Error())
	case !loopback && !c.guarded():
		v.bad("server.grpc_addr", addr, "a loopback address such as 127.0.0.1:8001 while no API key is set")
	case !strings.HasSuffix(addr, ":0") && (addr == c.Server.Addr || addr == c.Server.AdminAddr):
		v.bad("server.grpc_addr", addr, "another address than server.addr and server.admin_addr")
	}
}

// checkAddr splits HOST:PORT. A name other than localhost counts as not loopback: what it resolves to may change.
func checkAddr(addr string) (loopback bool, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false, fmt.Errorf("for example 127.0.0.1:8080")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return false, fmt.Errorf("the port is a number from 0 (any free one) to 65535")
	}
	if host == "localhost" {
		return true, nil
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback(), nil
}

// maxAlias is the longest model id that common clients show whole.
const maxAlias = 128

func (v *validator) server(c Config) {
	if len(c.Server.Alias) > maxAlias || strings.ContainsFunc(c.Server.Alias, unprintable) {
		v.bad("server.alias", c.Server.Alias, fmt.Sprintf("at most %d printable characters without spaces", maxAlias))
	}
	if strings.ContainsFunc(c.APIKey, unprintable) {
		v.bad("api_key", "", "printable characters without spaces, as an HTTP header carries them")
	}
	if c.Home == "" {
		v.bad("home", "", "a folder")
	}
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }

var (
	// pluginName keeps a name from being a path: it becomes part of a file name.
	pluginName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	className  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	groupName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
)

func (v *validator) plugins(c Config) {
	const wantName = "a name of lower-case letters, digits, - and _"
	if !pluginName.MatchString(c.Router.Plugin) {
		v.bad("router.plugin", orEmpty(c.Router.Plugin), wantName+", such as model")
	}
	if !pluginName.MatchString(c.Experts.Backend) {
		v.bad("experts.backend", orEmpty(c.Experts.Backend), wantName+", such as cpu")
	}
	if !className.MatchString(c.Experts.Precision) {
		v.bad("experts.precision", orEmpty(c.Experts.Precision), "auto or a numeric class such as f32 or bf16w-f32")
	}
	for i, o := range c.Experts.Overrides {
		key := fmt.Sprintf("experts.overrides[%d]", i)
		if o.Backend != "" && !pluginName.MatchString(o.Backend) {
			v.bad(key+".backend", o.Backend, wantName+", such as ref")
		}
		if o.Precision != "" && !className.MatchString(o.Precision) {
			v.bad(key+".precision", o.Precision, "auto or a numeric class such as f32 or bf16w-f32")
		}
		if o.Backend == "" && o.Plugin == "" && o.Precision == "" && o.Device == "" && o.Replicas == 0 && o.Policy == "" && o.Fallback == (Alternative{}) && len(o.Substitutes) == 0 {
			v.bad(key, "", "backend, plugin, precision, device, replicas, policy, fallback or substitutes: it changes nothing")
		}
	}
	v.classes(c)
	v.devices(c.Experts)
	if p := c.Plugins.Users; p != "auto" && p != "off" {
		if _, _, err := parseUsers(p); err != nil {
			v.bad("plugins.users", orEmpty(p), "auto, off or "+err.Error())
		}
	}
}

// parseUsers reads "FIRST-LAST"; "off" is 0, 0.
func parseUsers(text string) (first, last uint32, err error) {
	if text == "off" {
		return 0, 0, nil
	}
	a, b, ok := strings.Cut(text, "-")
	low, err1 := strconv.ParseUint(a, 10, 32)
	high, err2 := strconv.ParseUint(b, 10, 32)
	if !ok || err1 != nil || err2 != nil || low < 1000 || high < low+32767 || high >= 1<<32-2 {
		return 0, 0, fmt.Errorf("a range such as %s, of at least 32768 ids from 1000 on", AutoUsers)
	}
	return uint32(low), uint32(high), nil
}

// classes refuses a backend with a class that it does not compute in. A plugin named by its path may compute in any.
func (v *validator) classes(c Config) {
	pair := func(key, backend, class, hint string) {
		known, ours := classes[backend]
		if ours && className.MatchString(class) && !slices.Contains(known, class) {
			v.bad(key, class, "one of "+strings.Join(known, ", ")+": backend "+backend+" computes in no other class"+hint)
		}
	}
	e := c.Experts
	pair("experts.precision", e.Backend, e.Precision, "")
	if slices.Contains(enums["trunk.precision"], c.Trunk.Precision) { // else table has said so
		pair("trunk.precision", c.Trunk.Backend, c.Trunk.Precision, "")
	}
	for i, o := range e.Overrides {
		if o.Plugin != "" {
			continue
		}
		key, hint := fmt.Sprintf("experts.overrides[%d]", i), ""
		switch {
		case o.Precision != "":
			key += ".precision"
		case o.Backend != "":
			key, hint = key+".backend", "; experts.precision applies here too: set a precision in the override"
		default:
			continue
		}
		pair(key, cmp.Or(o.Backend, e.Backend), cmp.Or(o.Precision, e.Precision), hint)
	}
}

// deviceNumber is that of a device, as its driver counts.
var deviceNumber = regexp.MustCompile(`^(auto|[0-9]{1,2})$`)

// devices refuses what is no device, and one for a backend that has none. Which there are is the driver's to say, when a process
// starts.
func (v *validator) devices(e Experts) {
	device := func(key, device, backend, plugin string) {
		switch {
		case !deviceNumber.MatchString(device):
			v.bad(key, orEmpty(device), "auto or the number of a device, from 0 to 99")
		case device != "auto" && plugin == "" && slices.Contains(onProcessors, backend):
			v.bad(key, device, "auto: backend "+backend+" computes on the processor; cuda has devices")
		}
	}
	device("experts.device", e.Device, e.Backend, "")
	for i, o := range e.Overrides {
		if o.Device != "" {
			device(fmt.Sprintf("experts.overrides[%d].device", i), o.Device, cmp.Or(o.Backend, e.Backend), o.Plugin)
		}
	}
}

// maxReplicas is how many processes serve the same units at most, standbys included.
const maxReplicas = 64

func (v *validator) placement(e Experts) {
	if e.Replicas > e.MaxProcesses && e.MaxProcesses > 0 {
		v.bad("experts.replicas", strconv.Itoa(e.Replicas), fmt.Sprintf("at most experts.max_processes (%d)", e.MaxProcesses))
	}
	if e.Replicas+e.Standby > maxReplicas {
		v.bad("experts.standby", strconv.Itoa(e.Standby), fmt.Sprintf("with experts.replicas at most %d processes for the same units", maxReplicas))
	}
	if n := e.Scaling.MaxReplicas; n > 0 {
		switch {
		case n < e.Replicas:
			v.bad("experts.scaling.max_replicas", strconv.Itoa(n), fmt.Sprintf("0, or at least experts.replicas (%d)", e.Replicas))
		case n > e.MaxProcesses && e.MaxProcesses > 0:
			v.bad("experts.scaling.max_replicas", strconv.Itoa(n), fmt.Sprintf("at most experts.max_processes (%d)", e.MaxProcesses))
		case n+e.Standby > maxReplicas:
			v.bad("experts.scaling.max_replicas", strconv.Itoa(n), fmt.Sprintf("with experts.standby at most %d processes for the same units", maxReplicas))
		}
		if e.Isolation == "inproc" {
			v.bad("experts.scaling.max_replicas", strconv.Itoa(n), "0 with experts.isolation inproc: it has no effect there")
		}
	}
	if _, err := e.lists(); err != nil {
		v.problems = append(v.problems, *err)
	}
	for i, o := range e.Overrides {
		key := fmt.Sprintf("experts.overrides[%d]", i)
		if o.Replicas > 0 && o.Replicas+e.Standby > maxReplicas {
			v.bad(key+".replicas", strconv.Itoa(o.Replicas), fmt.Sprintf("with experts.standby at most %d processes for the same units", maxReplicas))
		}
		if _, err := parseSelection(key+".layers", o.Layers); err != nil {
			v.problems = append(v.problems, *err)
		}
		if _, err := parseSelection(key+".experts", o.Experts); err != nil {
			v.problems = append(v.problems, *err)
		}
	}
}

var listIndex = regexp.MustCompile(`\[\d+\]`)

// generalKey is the key of the tables: list indices are left out.
func generalKey(key string) string { return listIndex.ReplaceAllString(key, "[]") }

func boundsText(key string) string {
	b, ok := bounds[generalKey(key)]
	if !ok {
		return ""
	}
	if t, ok := typeOf(key); ok && t == durationType {
		return fmt.Sprintf(" from %s to %s", time.Duration(b[0])*time.Millisecond, time.Duration(b[1])*time.Millisecond)
	}
	return fmt.Sprintf(" from %d to %d", b[0], b[1])
}

func orEmpty(s string) string {
	if s == "" {
		return "(empty)"
	}
	return s
}
