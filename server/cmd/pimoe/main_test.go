package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/bench"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/clients"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/kernels"
)

// shared is the store of all tests: the embedded model is imported once. Its path is short, because sockets live below.
var shared struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	if code == 0 {
		if err := goleak.Find(ignored...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// ignored are goroutines that fasthttp and Fiber start once for the process, or end some seconds after their server.
var ignored = []goleak.Option{
	goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
	goleak.IgnoreAnyFunction("github.com/gofiber/fiber/v2/utils.StartTimeStampUpdater.func1.1"),
	goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
}

func store(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() { shared.dir, shared.err = os.MkdirTemp("", "pimoe-cmd-") })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.dir
}

// result is what one command line did.
type result struct {
	out, err string
	code     int
}

// pimoe runs a command line in this process; the plugins are real programs.
func pimoe(t testing.TB, args ...string) result { return pimoeIn(t, "", nil, args...) }

func pimoeIn(t testing.TB, stdin string, environ []string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{
		in: strings.NewReader(stdin), out: &out, err: &errs,
		environ: append([]string{"HOME=/nonexistent", "PIMOE_HOME=" + store(t), "PIMOE_PLUGINS=" + coretest.Binaries(t)}, environ...),
	}
	code := a.run(t.Context(), args)
	return result{out.String(), errs.String(), code}
}

// ok fails the test unless the command succeeded without a word on standard error.
func (r result) ok(t testing.TB) result {
	t.Helper()
	if r.code != exitOK || r.err != "" {
		t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.out, r.err)
	}
	return r
}

func decode[T any](t testing.TB, r result) T {
	t.Helper()
	var v T
	dec := json.NewDecoder(strings.NewReader(r.ok(t).out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	return v
}

func write(t testing.TB, name string, v any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestContract holds the commands and flags that scripts rely on.
func TestContract(t *testing.T) {
	commands := map[string]string{
		"serve": "config addr admin-addr alias isolation shape", "generate": "model max-tokens temperature seed raw record output isolation", "chat": "model isolation",
		"eval": "model ids-file logits routes greedy text-file ctx full texts-file against output isolation", "tokenize": "model texts-file special chat-file template-file output",
		"bench": "model shape prompt gen parallel isolation output workload peer limits backend trunk-backend precision threads max-processes kv-dtype", "bench kernels": "backend", "bench http": "shape url", "bench overload": "shape words gen for settle strict", "bench routers": "routers texts-file texts passes rounds workload markdown output", "import": "", "models": "", "plugins list": "", "plugins test": "",
		"chaos": "kill stop slow corrupt oom router for load replicas seed model pairs calm keep output", "chaos host": "times seed", "chaos soak": "requests restarts seed",
		"replay": "url model isolation output", "experts": "admin", "experts list": "admin output", "experts release": "admin", "experts swap": "admin backend plugin precision", "experts canary": "admin backend percent max-relative", "experts shadow": "admin backend percent", "experts promote": "admin", "experts rollback": "admin", "experts scale": "admin replicas auto", "experts restart": "admin", "experts drain": "admin", "experts rebalance": "admin dry-run output print", "alerts": "admin", "alerts list": "admin output", "alerts rules": "prometheus output", "config check": "", "config print": "", "config schema": "", "deploy render": "target values environment profile out check output", "deploy values": "values environment profile", "deploy sbom": "", "doctor": "output", "debug bundle": "admin output", "health": "url", "version": "json", "completion bash": "",
	}
	a := &app{}
	root := a.root()
	root.InitDefaultCompletionCmd()
	for name, flags := range commands {
		c, rest, err := root.Find(strings.Fields(name))
		if err != nil || len(rest) > 0 {
			t.Errorf("%s: %v %v", name, rest, err)
			continue
		}
		for f := range strings.FieldsSeq(flags) {
			if c.Flag(f) == nil {
				t.Errorf("%s has no --%s", name, f)
			}
		}
	}
	generate, _, _ := root.Find([]string{"generate"})
	for short, long := range map[string]string{"m": "model", "n": "max-tokens"} {
		if f := generate.Flags().ShorthandLookup(short); f == nil || f.Name != long {
			t.Errorf("generate -%s is not --%s", short, long)
		}
	}
	if generate.Flag("max-tokens").DefValue != "128" {
		t.Error("generate -n has another default than 128")
	}
	measure, _, _ := root.Find([]string{"bench"})
	for name, want := range map[string]string{"prompt": "512", "gen": "128", "parallel": "[1,8,32]"} {
		if got := measure.Flag(name).DefValue; got != want {
			t.Errorf("bench --%s is %s by default, want %s", name, got, want)
		}
	}
}

// TestUsage: what is wrong is said on one line of standard error, and the exit code tells its kind.
func TestUsage(t *testing.T) {
	empty := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"unknown command":        {[]string{"nonsense"}, exitUsage, `unknown command "nonsense"`},
		"unknown flag":           {[]string{"generate", "--nonsense", "x"}, exitUsage, "--nonsense"},
		"no prompt":              {[]string{"generate"}, exitUsage, "want a prompt"},
		"bad number":             {[]string{"generate", "--temperature", "warm", "x"}, exitUsage, "--temperature"},
		"temperature":            {[]string{"generate", "--temperature", "NaN", "x"}, exitUsage, "--temperature NaN"},
		"negative n":             {[]string{"generate", "-n", "0", "x"}, exitUsage, "-n 0"},
		"output":                 {[]string{"models", "-o", "xml"}, exitUsage, `--output "xml"`},
		"no subcommand":          {[]string{"plugins"}, exitUsage, "want one of list, pin, run, test, verify"},
		"too many arguments":     {[]string{"models", "x"}, exitUsage, "x"},
		"set without a value":    {[]string{"models", "--set", "x"}, exitUsage, "want key=value"},
		"setting":                {[]string{"models", "--set", "limits.thread=1"}, exitUsage, "did you mean limits.threads?"},
		"mode":                   {[]string{"models", "--mode", "fast"}, exitUsage, "want one of production"},
		"no such model":          {[]string{"generate", "-m", "nomodel", "x"}, exitNotFound, "nomodel"},
		"no such file":           {[]string{"eval", "--ids-file", "/nonexistent"}, exitNotFound, "/nonexistent"},
		"no such config":         {[]string{"models", "--config", "/nonexistent"}, exitUsage, "/nonexistent"},
		"no such plugin":         {[]string{"plugins", "test", "/nonexistent"}, exitNotFound, "/nonexistent"},
		"no weights":             {[]string{"generate", "-m", empty, "x"}, exitNotFound, "model.safetensors"},
		"import nothing":         {[]string{"import", empty}, exitNotFound, "config.json"},
		"eval nothing":           {[]string{"eval"}, exitUsage, "--ids-file or --text-file"},
		"eval both":              {[]string{"eval", "--ids-file", "a", "--text-file", "b"}, exitUsage, "either"},
		"routes without a file":  {[]string{"eval", "--ids-file", "a", "--routes"}, exitUsage, "--routes needs --logits"},
		"tokenize nothing":       {[]string{"tokenize"}, exitUsage, "want one of"},
		"template without chats": {[]string{"tokenize", "--template-file", "a", "x"}, exitUsage, "--chat-file"},
		"server not there":       {[]string{"health", "--url", "http://127.0.0.1:1"}, exitUnavailable, "127.0.0.1:1"},
		"experts not there":      {[]string{"experts", "--admin", "http://127.0.0.1:1"}, exitUnavailable, "127.0.0.1:1"},
		"scale what":             {[]string{"experts", "scale", "e1", "--admin", "http://127.0.0.1:1"}, exitUsage, "--replicas N"},
		"scale how":              {[]string{"experts", "scale", "e1", "--replicas", "2", "--auto", "--admin", "http://127.0.0.1:1"}, exitUsage, "--replicas N"},
		"drain what":             {[]string{"experts", "drain", "e1", "--admin", "http://127.0.0.1:1"}, exitUsage, "GROUP/REPLICA"},
		"release what":           {[]string{"experts", "release", "e1/x", "--admin", "http://127.0.0.1:1"}, exitUsage, "GROUP/REPLICA"},
		"shape":                  {[]string{"bench", "--shape", "huge"}, exitUsage, `shape "huge"`},
		"no such shape":          {[]string{"serve", "--shape", "no/such.yaml"}, exitNotFound, "no/such.yaml"},
		"shape and model":        {[]string{"serve", "--shape", "tiny", "x"}, exitUsage, "either a model or --shape"},
		"workload":               {[]string{"bench", "--workload", "much"}, exitUsage, `workload "much"`},
		"workload and prompt":    {[]string{"bench", "--workload", "decode", "--gen", "3"}, exitUsage, "either --workload or"},
		"bench isolation":        {[]string{"bench", "--isolation", "none"}, exitUsage, "process, inproc or both"},
		"isolation":              {[]string{"generate", "--isolation", "both", "x"}, exitUsage, "want one of process, inproc"},
		"router not linked":      {[]string{"generate", "--isolation", "inproc", "--router", "hash", "x"}, exitUsage, `router "hash"`},
		"public without key":     {[]string{"serve", "--addr", "0.0.0.0:0"}, exitUsage, "PIMOE_API_KEY"},
		"secret as a flag":       {[]string{"serve", "--set", "api_key=hunter2"}, exitUsage, "PIMOE_API_KEY[_FILE]"},
	} {
		t.Run(name, func(t *testing.T) {
			r := pimoe(t, c.args...)
			if r.code != c.code || !strings.Contains(r.err, c.want) {
				t.Errorf("exit code %d, want %d; %q, want it to contain %q", r.code, c.code, r.err, c.want)
			}
			if strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "pimoe: ") || strings.Contains(r.err, "hunter2") {
				t.Errorf("not one clear line: %q", r.err)
			}
		})
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errSignal{os.Interrupt})
	var out, errs bytes.Buffer
	a := &app{out: &out, err: &errs, environ: []string{"PIMOE_HOME=" + store(t), "PIMOE_PLUGINS=" + coretest.Binaries(t)}}
	if code := a.run(ctx, []string{"generate", "x"}); code != exitInterrupted || strings.TrimSpace(errs.String()) != "pimoe: stopped by interrupt" {
		t.Errorf("exit code %d, %q", code, errs.String())
	}
}

// TestGenerate: isolated processes and direct calls give the same text, and JSON has the keys that scripts read.
func TestGenerate(t *testing.T) {
	prompt := "Tell me a story about a fox and a lamp."
	var texts []string
	for _, isolation := range []string{"inproc", "process"} {
		g := decode[generation](t, pimoe(t, "generate", "--isolation", isolation, "--temperature", "0", "-n", "40", "-o", "json", prompt))
		if len(g.IDs) != 40 || g.CompletionTokens != 40 || g.PromptTokens < 10 || g.FinishReason != "length" || g.Seconds <= 0 {
			t.Errorf("%+v", g)
		}
		texts = append(texts, g.Text)
	}
	if texts[0] != texts[1] || !strings.Contains(texts[0], "fox") {
		t.Errorf("inproc: %q\nprocess: %q", texts[0], texts[1])
	}
	if plain := pimoe(t, "generate", "--isolation", "inproc", "--temperature", "0", "-n", "40", prompt).ok(t); plain.out != texts[0]+"\n" {
		t.Errorf("streamed %q, want %q", plain.out, texts[0])
	}
	stdin := pimoeIn(t, prompt, nil, "generate", "--isolation", "inproc", "--temperature", "0", "-n", "40", "-").ok(t)
	if stdin.out != texts[0]+"\n" {
		t.Errorf("from standard input %q", stdin.out)
	}
}

func TestGenerateSampling(t *testing.T) {
	run := func(args ...string) string {
		return pimoe(t, append([]string{"generate", "--isolation", "inproc", "-n", "40"}, args...)...).ok(t).out
	}
	a, b, c := run("--seed", "7", "Tell me a story."), run("--seed", "7", "Tell me a story."), run("--seed", "8", "Tell me a story.")
	if a != b || a == c {
		t.Errorf("seed 7 twice: %q %q; seed 8: %q", a, b, c)
	}
	if r := pimoe(t, "generate", "--router", "load-aware", "--seed", "7", "Tell me a story."); r.code != exitUsage || !strings.Contains(r.err, "--seed: router load-aware depends on load") {
		t.Errorf("a seed with a router that follows load: %+v", r)
	}
	if raw := run("--raw", "--temperature", "0", "One day, a little"); raw == run("--temperature", "0", "One day, a little") {
		t.Errorf("--raw changes nothing: %q", raw)
	}
}

func TestChat(t *testing.T) {
	r := pimoeIn(t, "What is 3 + 4?\n\n/clear\nWhat does a frog say?\n/exit\nnot read\n", nil, "chat", "--isolation", "inproc", "--temperature", "0").ok(t)
	if lines := strings.Split(strings.TrimSpace(r.out), "\n"); len(lines) != 2 || !strings.Contains(lines[0], "7") || !strings.Contains(lines[1], "croak") {
		t.Errorf("%q", r.out)
	}
	long := strings.Repeat("fox ", 3000)
	r = pimoeIn(t, long+"\nWhat does a frog say?\n", nil, "chat", "--isolation", "inproc", "--temperature", "0")
	if r.code != exitOK || !strings.Contains(r.err, "/clear") || !strings.Contains(r.out, "croak") {
		t.Errorf("after a line that is too long: exit code %d, %q, %q", r.code, r.out, r.err)
	}
}

// TestEvalHeldOut computes the held-out loss of the embedded model that its page states.
func TestEvalHeldOut(t *testing.T) {
	var held struct{ Documents map[string][]string }
	coretest.ReadJSON(t, filepath.Join(coretest.PimoeTiny(t), "heldout.json"), &held)
	docs := held.Documents["stories"]
	tokens := decode[[]tokenized](t, pimoe(t, "tokenize", "--texts-file", write(t, "texts.json", docs), "-o", "json"))
	ids := make([][]int32, len(tokens))
	for i, d := range tokens {
		ids[i] = d.IDs
		if d.Decoded != docs[i] {
			t.Errorf("document %d does not survive encoding and decoding", i)
		}
	}
	type sequence struct {
		NLLMean *float64 `json:"nll_mean"`
	}
	var sum float64
	count := 0
	for i, s := range decode[[]sequence](t, pimoe(t, "eval", "--isolation", "inproc", "--ids-file", write(t, "ids.json", ids), "-o", "json")) {
		sum += *s.NLLMean * float64(len(ids[i])-1)
		count += len(ids[i]) - 1
	}
	if got := sum / float64(count); count != 2398 || math.Abs(got-0.3323) > 1e-4 {
		t.Errorf("%d tokens with a loss of %.5f, want 2398 with 0.3323", count, got)
	}
	type text struct {
		Tokens     int
		NLLMean    float64 `json:"nll_mean"`
		Perplexity float64
	}
	file := write(t, "doc.txt", []byte(docs[0]))
	full := decode[text](t, pimoe(t, "eval", "--isolation", "inproc", "--text-file", file, "--full", "-o", "json"))
	if full.Tokens != len(ids[0])-1 || math.Abs(full.Perplexity-math.Exp(full.NLLMean)) > 1e-9 {
		t.Errorf("%+v", full)
	}
	halves := decode[text](t, pimoe(t, "eval", "--isolation", "inproc", "--text-file", file, "--ctx", "32", "-o", "json"))
	if want := len(ids[0]) / 32 * 15; halves.Tokens != want {
		t.Errorf("windows of 32 score %d tokens, want %d", halves.Tokens, want)
	}
	if r := pimoe(t, "eval", "--isolation", "inproc", "--text-file", file, "--ctx", "512", "-o", "json"); r.code != exitUsage || !strings.Contains(r.err, "--full") {
		t.Errorf("a text of less than two windows: %+v", r)
	}
}

// TestEvalAgainst: a class compared with itself differs by nothing, whatever backend computes it.
func TestEvalAgainst(t *testing.T) {
	var held struct{ Documents map[string][]string }
	coretest.ReadJSON(t, filepath.Join(coretest.PimoeTiny(t), "heldout.json"), &held)
	got := decode[comparison](t, pimoe(t, "eval", "--isolation", "inproc", "--texts-file", write(t, "texts.json", held.Documents["chat"][:4]), "--against", "experts.backend=ref", "-o", "json"))
	if got.Tokens == 0 || got.Against == nil || got.Against.Tokens != got.Tokens || *got.Difference != 0 || got.Against.Perplexity != got.Perplexity {
		t.Errorf("%+v", got)
	}
	named := decode[comparison](t, pimoe(t, "eval", "--isolation", "inproc", "--texts-file", write(t, "texts.json", map[string]any{"documents": map[string][]string{"a": held.Documents["chat"][:4]}}), "-o", "json"))
	if named.Text != got.Text || named.Against != nil {
		t.Errorf("%+v, want %+v", named, got)
	}
	for _, text := range []string{"[]", "{}", "[1]", "3"} {
		if r := pimoe(t, "eval", "--isolation", "inproc", "--texts-file", write(t, "texts.json", []byte(text))); r.code != exitUsage {
			t.Errorf("%s: %+v", text, r)
		}
	}
	if r := pimoe(t, "eval", "--text-file", "x", "--against", "a=b"); r.code != exitUsage || !strings.Contains(r.err, "--against goes with") {
		t.Errorf("%+v", r)
	}
}

// TestEvalInt8: rounding all weights and activations to int8 in groups of 32 changes the perplexity by less than half a
// percent, over some held-out texts of every domain.
func TestEvalInt8(t *testing.T) {
	var held struct {
		Documents map[string][]string `json:"documents"`
	}
	coretest.ReadJSON(t, filepath.Join(coretest.PimoeTiny(t), "heldout.json"), &held)
	for domain, texts := range held.Documents {
		held.Documents[domain] = texts[:4]
	}
	got := decode[comparison](t, pimoe(t, "eval", "--isolation", "inproc", "--backend", "int8", "--trunk-backend", "int8", "--texts-file", write(t, "texts.json", held),
		"--against", "experts.backend=cpu", "--against", "trunk.backend=cpu", "-o", "json"))
	if math.Abs(*got.Difference) > 0.5 || got.Perplexity == got.Against.Perplexity {
		t.Errorf("int8 %.4f, bf16 %.4f: %+.3f %%", got.Perplexity, got.Against.Perplexity, *got.Difference)
	}
}

func TestEvalRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		ids  any
		want string
	}{
		"too long":   {[][]int32{make([]int32, 1025)}, "sequence 0: 1025 tokens are beyond the context of 1024"},
		"empty":      {[][]int32{{1}, {}}, "sequence 1: it has no token"},
		"no such id": {[][]int32{{1, 99999}}, "sequence 0"},
		"no lists":   {[]int32{1}, "list of lists"},
	} {
		t.Run(name, func(t *testing.T) {
			r := pimoe(t, "eval", "--isolation", "inproc", "--ids-file", write(t, "ids.json", c.ids), "-o", "json")
			if r.code != exitUsage || !strings.Contains(r.err, c.want) || r.out != "" {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestTokenizeGolden(t *testing.T) {
	dir := coretest.Golden(t, "tokenizers", "qwen")
	var want struct {
		Cases []struct {
			Text       string
			IDs        []int32 `json:"ids"`
			IDsSpecial []int32 `json:"ids_special"`
			Decode     string
			DecodeSkip string `json:"decode_skip"`
		}
	}
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &want)
	var texts []string
	for _, c := range want.Cases {
		texts = append(texts, c.Text)
	}
	file := write(t, "texts.json", texts)
	got := decode[[]tokenized](t, pimoe(t, "tokenize", "-m", dir, "--texts-file", file, "-o", "json"))
	special := decode[[]tokenized](t, pimoe(t, "tokenize", "-m", dir, "--texts-file", file, "--special", "-o", "json"))
	if len(got) != len(want.Cases) || len(got) == 0 {
		t.Fatalf("%d of %d cases", len(got), len(want.Cases))
	}
	for i, c := range want.Cases {
		if !slices.Equal(got[i].IDs, c.IDs) || got[i].Decoded != c.Decode || got[i].SkipSpecial != c.DecodeSkip || !slices.Equal(special[i].IDs, c.IDsSpecial) {
			t.Errorf("%q: %+v, want %+v", c.Text, got[i], c)
		}
	}
}

func TestTokenizeChat(t *testing.T) {
	var file struct {
		Templates []struct {
			Name, Template, Tokenizer string
			Cases                     []struct {
				Messages            json.RawMessage `json:"messages"`
				Tools               json.RawMessage `json:"tools"`
				AddGenerationPrompt bool            `json:"add_generation_prompt"`
				Kwargs              json.RawMessage `json:"kwargs"`
				Rendered            *string
				IDs                 []int32 `json:"ids"`
			}
		}
	}
	coretest.ReadJSON(t, coretest.Golden(t, "chat", "chat.json"), &file)
	for _, tmpl := range file.Templates[:2] { // all of them are core/tokenizer's to test
		var in []conversationIn
		for _, c := range tmpl.Cases {
			in = append(in, conversationIn{c.Messages, c.Tools, c.AddGenerationPrompt, c.Kwargs})
		}
		r := pimoe(t, "tokenize", "-m", coretest.Golden(t, "tokenizers", tmpl.Tokenizer), "--chat-file", write(t, "chats.json", in),
			"--template-file", write(t, "t.jinja", []byte(tmpl.Template)), "-o", "json")
		var got []struct {
			Text  *string
			IDs   []int32
			Error string
		}
		if err := json.Unmarshal([]byte(r.ok(t).out), &got); err != nil || len(got) != len(in) {
			t.Fatalf("%v: %s", err, r.out)
		}
		for i, c := range tmpl.Cases {
			switch {
			case c.Rendered == nil && got[i].Error == "":
				t.Errorf("%s case %d: no error", tmpl.Name, i)
			case c.Rendered != nil && (got[i].Text == nil || *got[i].Text != *c.Rendered || !slices.Equal(got[i].IDs, c.IDs)):
				t.Errorf("%s case %d: %+v", tmpl.Name, i, got[i])
			}
		}
	}
}

func TestImportAndModels(t *testing.T) {
	dir := coretest.Golden(t, "models", "qwen3_moe")
	home, err := os.MkdirTemp("", "pimoe-import-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	one := decode[[]storedModel](t, pimoe(t, "import", "--home", home, "--name", "gold", dir, "-o", "json"))
	if len(one) != 1 || one[0].Name != "gold" || one[0].Type != "qwen3_moe" || one[0].Experts < 2 || one[0].Bytes < 1<<20 || !strings.HasPrefix(one[0].Digest, "sha256:") {
		t.Errorf("%+v", one)
	}
	again := decode[[]storedModel](t, pimoe(t, "import", "--home", home, "--name", "gold", dir, "-o", "json"))
	listed := decode[[]storedModel](t, pimoe(t, "models", "--home", home, "-o", "json"))
	if len(listed) != 1 || listed[0] != again[0] || again[0].Digest != one[0].Digest {
		t.Errorf("%+v %+v %+v", one, again, listed)
	}
	if r := pimoe(t, "models", "--home", home).ok(t); !strings.Contains(r.out, "gold") || !strings.Contains(r.out, "NAME") {
		t.Errorf("%q", r.out)
	}
	ids := decode[[]tokenized](t, pimoe(t, "tokenize", "--home", home, "-m", "gold", "-o", "json", "a b"))
	if len(ids) != 1 || len(ids[0].IDs) == 0 {
		t.Errorf("%+v", ids)
	}
}

// thinnest is the smallest shape that routes, as a file.
func thinnest(t testing.TB) string {
	return write(t, "thin.yaml", []byte("hidden: 16\nlayers: 1\nexperts: 4\ntop_k: 2\nintermediate: 16\nheads: 2\nvocab: 300\npositions: 512\n"))
}

func TestBench(t *testing.T) {
	got := decode[[]bench.Result](t, pimoe(t, "bench", "--shape", thinnest(t), "--prompt", "24", "--gen", "12", "--parallel", "1,3", "--rounds", "2", "--isolation", "both", "-o", "json"))
	if len(got) != 4 {
		t.Fatalf("%+v", got)
	}
	for i, l := range got {
		if l.Parallel != []int{1, 1, 3, 3}[i] || l.Isolation != []string{"process", "inproc"}[i%2] || (l.Tax != nil) != (i%2 == 0) {
			t.Errorf("line %d: %+v", i, l)
		}
		if l.PrefillTPS <= 0 || l.DecodeTPS <= 0 || l.TTFT <= 0 || l.ITL.P50 <= 0 || l.ITL.P99 < l.ITL.P50 {
			t.Errorf("line %d: %+v", i, l)
		}
		if l.Experts < 2 || l.Experts > 4 || l.BytesPerToken <= 0 {
			t.Errorf("line %d: %v distinct experts, %v bytes", i, l.Experts, l.BytesPerToken)
		}
	}
	if left, err := filepath.Glob(filepath.Join(store(t), ".shape-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if r := pimoe(t, "bench", "--prompt", "1000", "--gen", "128", "--isolation", "inproc"); r.code != exitUsage || !strings.Contains(r.err, "context of 1024") {
		t.Errorf("%+v", r)
	}
}

// TestBenchWith: settings make another side, which is compared with the first.
func TestBenchWith(t *testing.T) {
	r := pimoe(t, "bench", "--shape", thinnest(t), "--workload", "2x8+4", "--rounds", "1", "--set", "experts.recheck_one_in=0",
		"--with", "experts.replicas=2 experts.recheck_one_in=100", "-o", "json").ok(t)
	var results []bench.Result
	if err := json.Unmarshal([]byte(r.out), &results); err != nil || len(results) != 2 || results[0].Settings != "" ||
		results[1].Settings != "experts.replicas=2 experts.recheck_one_in=100" || len(results[1].Ratios) != 1 || results[1].Ratios[0].Decode == nil {
		t.Errorf("%v %s", err, r.out)
	}
	if r := pimoe(t, "bench", "--workload", "1x8+4", "--with", "experts.replicas=many"); r.code != exitUsage || !strings.Contains(r.err, "experts.replicas") {
		t.Errorf("%+v", r)
	}
}

// TestBenchReport: peers, limits, starts and what the processes cost come into one report.
func TestBenchReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	r := pimoe(t, "bench", "--shape", thinnest(t), "--workload", "2x8+4,layer3", "--rounds", "1", "--isolation", "both", "--limits", "--starts", "1", "--idle", "10ms",
		"--peer", `echo '{"name":"other","decode_tps":1}'`, "--report", file).ok(t)
	for _, want := range []string{"shape-thin-", "LIMITS", "layer3", "START MS", "OWN MB"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in\n%s", want, r.out)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report bench.Report
	if err := json.Unmarshal(b, &report); err != nil || report.After == nil || report.Before.Mapped[0] <= 0 || len(report.Sides) != 2 || len(report.Results) != 4 {
		t.Fatalf("%v %s", err, b)
	}
	if r := pimoe(t, "bench", "table", file).ok(t); !strings.Contains(r.out, "| thin, bf16w-f32, 4 processes | 2x8+4 |") || strings.Contains(r.out, "layer3") {
		t.Errorf("%s", r.out)
	}
	if r := pimoe(t, "bench", "table", write(t, "x.json", []byte("{}{}"))); r.code != exitUsage {
		t.Errorf("%+v", r)
	}
	if s := report.Sides[0]; s.Processes != 4 || len(s.Starts) != 1 || runtime.GOOS == "linux" && (len(s.OwnBytes) != 4 || slices.Min(s.OwnBytes) < 1<<16) {
		t.Errorf("%+v", s)
	}
	if s := report.Sides[1]; s.Processes != 0 || len(s.OwnBytes) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestBenchHTTP(t *testing.T) {
	got := decode[[]clients.Result](t, pimoe(t, "bench", "http", "--shape", thinnest(t), "--parallel", "3", "--rounds", "1", "--words", "4", "--gen", "5", "-o", "json"))
	if len(got) != 1 || got[0].Requests != 3 || got[0].Failed != 0 || got[0].Written != 15 || got[0].WrittenTPS <= 0 || got[0].Gap.P99 <= 0 {
		t.Errorf("%+v", got)
	}
	if r := pimoe(t, "bench", "http", "--url", "http://127.0.0.1:1/v1/completions", "--rounds", "1", "--parallel", "1"); r.code != exitFailure || !strings.Contains(r.err, "1 of 1 requests failed") {
		t.Errorf("%+v", r)
	}
}

// TestBenchRouters is the comparison of strategies, small enough for a test: each is what it is known to be.
func TestBenchRouters(t *testing.T) {
	file := filepath.Join(coretest.PimoeTiny(t), "heldout.json")
	args := []string{"bench", "routers", "--texts-file", file, "--texts", "12", "--passes", "1", "--rounds", "1", "--workload", "2x8+8",
		"--routers", "model,hierarchical,adaptive,round-robin"}
	got := decode[[]routerResult](t, pimoe(t, append(args, "-o", "json")...))
	if len(got) != 4 {
		t.Fatalf("%+v", got)
	}
	for i, r := range got {
		depends := r.Router == "adaptive" || r.Router == "round-robin"
		if r.LoadDependent != depends || r.Tokens != got[0].Tokens || r.Tokens < 1000 || !(r.Perplexity > 1) || !(r.Peak >= 1) ||
			r.PrefillTPS <= 0 || r.DecodeTPS <= 0 || r.Hop1 <= 0 || r.Hop256 <= 0 || r.Observations > 0 && r.Router != "adaptive" {
			t.Errorf("%d: %+v", i, r)
		}
	}
	model, turns := got[0], got[3]
	if turns.Variation > 0.01 || turns.Peak > 1.01 || model.Variation < 0.02 {
		t.Errorf("in turn: variation %g, peak %g; the model's own: %g", turns.Variation, turns.Peak, model.Variation)
	}
	if turns.Perplexity < 3*model.Perplexity || got[1].Perplexity > 1.5*model.Perplexity || got[1].Perplexity == model.Perplexity {
		t.Errorf("perplexity %g, by groups %g, in turn %g", model.Perplexity, got[1].Perplexity, turns.Perplexity)
	}
	r := pimoe(t, "bench", "routers", "--texts-file", file, "--texts", "2", "--passes", "1", "--rounds", "1", "--workload", "1x4+4", "--routers", "model,hash", "--markdown").ok(t)
	if !strings.HasPrefix(r.out, "| router | load-dependent | perplexity |") || !strings.Contains(r.out, "\n| `hash` | no | ") || !strings.Contains(r.out, "\nMeasured on ") {
		t.Errorf("markdown:\n%s", r.out)
	}
	for _, bad := range [][]string{{}, {"--texts-file", file, "--passes", "0"}, {"--texts-file", file, "--workload", "x"}, {"--texts-file", file, "--routers", "nosuch"}} {
		if r := pimoe(t, append([]string{"bench", "routers"}, bad...)...); r.code == exitOK || r.err == "" {
			t.Errorf("%v: %+v", bad, r)
		}
	}
}

func TestBenchKernels(t *testing.T) {
	got := decode[[]kernels.Result](t, pimoe(t, "bench", "kernels", "--time", "1ms", "--memory", "1", "--rows", "16", "--hidden", "64", "--inner", "48", "-o", "json"))
	if len(got) == 0 {
		t.Fatal("no kernel")
	}
	for _, r := range got {
		if r.GFLOPS <= 0 || r.GBS <= 0 || r.Best <= 0 || r.Share <= 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestConfigCommands(t *testing.T) {
	if r := pimoe(t, "config", "check").ok(t); !strings.Contains(r.out, "valid") {
		t.Errorf("%q", r.out)
	}
	file := write(t, "c.yaml", []byte("limits:\n  max_batch_size: many\nmodle: x\n"))
	r := pimoe(t, "config", "check", file)
	if r.code != exitUsage || strings.Count(r.err, "\n") != 2 || !strings.Contains(r.err, "c.yaml:2") || !strings.Contains(r.err, "did you mean model?") {
		t.Errorf("%+v", r)
	}
	r = pimoe(t, "config", "check", file, "-o", "json")
	var report struct {
		OK       bool
		Problems []string
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || report.OK || len(report.Problems) != 2 || r.err != "" {
		t.Errorf("%v %+v", err, r)
	}
	r = pimoeIn(t, "", []string{"PIMOE_API_KEY=Vq9xT2mLw8Rz4Kp7", "PIMOE_MAX_BATCH_SIZE=9"}, "config", "print", "--set", "limits.threads=3").ok(t)
	if strings.Contains(r.out, "Vq9xT2") || !strings.Contains(r.out, "max_batch_size: 9") || !strings.Contains(r.out, "threads: 3") {
		t.Errorf("%s", r.out)
	}
	r = pimoeIn(t, "", []string{"PIMOE_SERVICE_HOST=10.0.0.1"}, "config", "print")
	if r.code != exitOK || strings.Count(r.err, "warning") != 1 || !strings.Contains(r.err, "PIMOE_SERVICE_HOST") {
		t.Errorf("%+v", r)
	}
	if !json.Valid([]byte(pimoe(t, "config", "schema").ok(t).out)) {
		t.Error("the schema is no JSON")
	}
}

func TestDoctorAndPlugins(t *testing.T) {
	type check struct{ Name, Status, Detail string }
	got := decode[struct{ Checks []check }](t, pimoe(t, "doctor", "-o", "json"))
	if len(got.Checks) < 6 {
		t.Errorf("%+v", got)
	}
	r := pimoe(t, "doctor", "--router", "nosuch")
	if r.code != exitUnavailable || !strings.Contains(r.out, "pimoe-router-nosuch") {
		t.Errorf("%+v", r)
	}
	type plugin struct {
		Name, Kind, File, Path, State string
		Bytes                         int64
		Executable                    bool
	}
	names := map[string]bool{}
	for _, p := range decode[[]plugin](t, pimoe(t, "plugins", "list", "-o", "json")) {
		names[p.Kind+" "+p.Name] = p.Executable && p.Bytes > 0 && p.State == "pinned"
	}
	for _, want := range []string{"expert cpu", "expert ref", "router model", "router hash", "router random", "router load-aware",
		"router attention", "router hierarchical", "router adaptive", "router learned", "router round-robin"} {
		if !names[want] {
			t.Errorf("no %s in %v", want, names)
		}
	}
}

// TestPluginsTest: the conformance suite passes on every router of ours and fails on a program that is none.
func TestPluginsTest(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(coretest.Binaries(t), "pimoe-router-*"))
	if err != nil || len(found) < 9 {
		t.Fatalf("routers %v, %v", found, err)
	}
	for _, path := range found {
		if r := pimoe(t, "plugins", "test", path).ok(t); !strings.Contains(r.out, "ok ") {
			t.Errorf("%s: %+v", path, r)
		}
	}
	r := pimoe(t, "plugins", "test", "/bin/true", "-o", "json")
	var report conformance
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || r.code == exitOK || report.Passed || len(report.Report) == 0 {
		t.Errorf("%v %+v", err, r)
	}
}

// TestPin: only what is pinned is started, and the error says what to do.
func TestPin(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(coretest.Binaries(t))); err != nil {
		t.Fatal(err)
	}
	folder := []string{"--plugins", dir}
	run := func(args ...string) result { return pimoe(t, append(args, folder...)...) }
	run("plugins", "verify").ok(t)
	path := filepath.Join(dir, "pimoe-expert-cpu")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("x"); err != nil { // still a program
		t.Fatal(err)
	}
	f.Close()
	generate := []string{"generate", "--max-tokens", "3", "a fox"}
	if r := run("plugins", "verify"); r.code != exitFailure || !strings.Contains(r.out, "not pinned: its digest is sha256:") {
		t.Errorf("verify: %+v", r)
	}
	if r := run(generate...); r.code == exitOK || !strings.Contains(r.err, "not the file that the catalogue pins") {
		t.Errorf("a changed plugin: %+v", r)
	}
	if r := run(append(generate, "--dev")...); r.code != exitOK || !strings.Contains(r.err, "not pinned is started") {
		t.Errorf("a changed plugin and --dev: %+v", r)
	}
	run("plugins", "pin", path, "--groups", "e0,e1,e2,e3,e4,e5,e6").ok(t)
	if r := run(generate...); r.code == exitOK || !strings.Contains(r.err, "other expert groups than e7") {
		t.Errorf("a plugin pinned for other groups: %+v", r)
	}
	run("plugins", "pin", path, "--groups", "e0,e1,e2,e3,e4,e5,e6,e7").ok(t)
	run(generate...).ok(t)
	if err := os.Chmod(path, 0o775); err != nil {
		t.Fatal(err)
	}
	if r := run(generate...); r.code == exitOK || !strings.Contains(r.err, "can be written by others") {
		t.Errorf("a plugin that others can write: %+v", r)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "plugins.yaml")); err != nil {
		t.Fatal(err)
	}
	if r := run(generate...); r.code == exitOK || !strings.Contains(r.err, "pimoe plugins pin") {
		t.Errorf("no catalogue: %+v", r)
	}
}

func TestVersion(t *testing.T) {
	b := decode[build](t, pimoe(t, "version", "--json"))
	if b.Version == "" || !strings.HasPrefix(b.Go, "go1.") || b.OS == "" || b.Arch == "" {
		t.Errorf("%+v", b)
	}
	if r := pimoe(t, "version").ok(t); !strings.HasPrefix(r.out, "pimoe "+b.Version) {
		t.Errorf("%q", r.out)
	}
}

func TestCurl(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{curl("http://127.0.0.1:1", "m", true, ""), `curl -sS http://127.0.0.1:1/v1/chat/completions -H 'Content-Type: application/json' -d '{`},
		{curl("http://127.0.0.1:1", "m", false, ""), `"prompt":"Once upon a time"`},
		{curl("http://127.0.0.1:1", "it's", false, "$PIMOE_API_KEY"), `-H "Authorization: Bearer $PIMOE_API_KEY"`},
		{curl("http://127.0.0.1:1", "it's", false, ""), `"model":"it'\''s"`},
		{reachable("0.0.0.0:80"), "127.0.0.1:80"}, {reachable("[::]:80"), "127.0.0.1:80"}, {reachable("10.1.2.3:80"), "10.1.2.3:80"},
	} {
		if !strings.Contains(c.got, c.want) {
			t.Errorf("%s\nwant it to contain\n%s", c.got, c.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got := oneLine("a: b\n  c\r\n\nd"); got != "a: b; c; d" {
		t.Errorf("%q", got)
	}
}

// What bench overload sends and what it counts: all loads, every request with an outcome, none refused without a time. How
// fast things are is for make overload, on a quiet machine.
func TestBenchOverload(t *testing.T) {
	type outcome struct{ Offered, Attempts, Done, Refused, Untold, Late, Failed, Tokens int }
	type report struct {
		Capacity float64
		Stages   []struct {
			Name     string
			Outcomes []outcome
			Computed int `json:"computed_tokens"`
			Probed   int `json:"probed_tokens"`
		}
	}
	var r report
	text := pimoe(t, "bench", "overload", "--for", "500ms", "--settle", "10ms", "--set", "limits.max_concurrent_requests=16", "--set", "limits.max_queue_time=100ms", "-o", "json").ok(t).out
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if r.Capacity <= 0 || len(r.Stages) != 7 {
		t.Fatalf("%+v", r)
	}
	for _, s := range r.Stages {
		var sum outcome
		for _, o := range s.Outcomes {
			if o.Done+o.Refused+o.Late+o.Failed != o.Attempts || o.Attempts < o.Offered || o.Done > o.Offered {
				t.Errorf("%s: %+v", s.Name, o)
			}
			sum = outcome{Offered: sum.Offered + o.Offered, Done: sum.Done + o.Done, Untold: sum.Untold + o.Untold, Failed: sum.Failed + o.Failed, Tokens: sum.Tokens + o.Tokens}
		}
		if sum.Offered == 0 || sum.Done == 0 || sum.Untold > 0 || sum.Failed > 0 || s.Computed < sum.Tokens {
			t.Errorf("%s: %+v of %+v", s.Name, sum, s)
		}
	}
}
