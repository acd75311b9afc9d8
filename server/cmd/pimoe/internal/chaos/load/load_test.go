package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/ledger"
)

// fake is a server whose answer depends on the question alone, and which does something else to the n-th request.
type fake struct {
	count atomic.Int64
	bad   func(n int64, w http.ResponseWriter) bool // true: has answered itself
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Prompt   string
		Max      int `json:"max_tokens"`
		Seed     uint64
		Logprobs *int
		Stream   bool
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.URL.Path != "/v1/completions" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	if f.bad != nil && f.bad(f.count.Add(1), w) {
		return
	}
	var text string
	var tokens, logprobs []string
	logs := func(from, to int) string {
		if q.Logprobs == nil {
			return "null"
		}
		return fmt.Sprintf(`{"tokens":[%s],"token_logprobs":[%s]}`, strings.Join(tokens[from:to], ","), strings.Join(logprobs[from:to], ","))
	}
	for i := range q.Max {
		text += string(q.Prompt[i%len(q.Prompt)])
		tokens, logprobs = append(tokens, `"t"`), append(logprobs, fmt.Sprintf("-0.%d", q.Seed%1000+uint64(i)+1))
	}
	usage := fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d}`, len(q.Prompt), q.Max)
	if !q.Stream {
		fmt.Fprintf(w, `{"choices":[{"text":%q,"finish_reason":"length","logprobs":%s}],"usage":%s}`, text, logs(0, q.Max), usage)
		return
	}
	for i := range q.Max {
		fmt.Fprintf(w, "data: {\"choices\":[{\"text\":%q,\"finish_reason\":null,\"logprobs\":%s}]}\n\n", text[i:i+1], logs(i, i+1))
	}
	fmt.Fprintf(w, "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}\n\ndata: {\"choices\":[],\"usage\":%s}\n\ndata: [DONE]\n\n", usage)
}

// judged runs a load on the fake until some requests have been asked, and returns the verdict and the streams.
func judged(t *testing.T, f *fake) (ledger.Verdict, []Pace) {
	t.Helper()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	s := Server{URL: srv.URL, Model: "m", HTTP: Client(4)}
	t.Cleanup(s.HTTP.CloseIdleConnections)
	questions := Questions(1, 16)
	var oracle, book bytes.Buffer
	bad := f.bad
	f.bad = nil
	if err := Record(t.Context(), s, questions, 4, ledger.NewPen(&oracle)); err != nil {
		t.Fatal(err)
	}
	f.bad = bad
	l := Begin(t.Context(), s, questions, 4, 1, 5*time.Second, ledger.NewPen(&book))
	for l.Asked() < 60 {
		time.Sleep(time.Millisecond)
	}
	paces := l.End()
	dir := t.TempDir()
	for name, b := range map[string]*bytes.Buffer{"oracle": &oracle, "ledger": &book} {
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v, err := ledger.Judge(filepath.Join(dir, "ledger"), filepath.Join(dir, "oracle"))
	if err != nil {
		t.Fatal(err)
	}
	return v, paces
}

// TestLoad: streamed and whole answers to one question are the same answer, and a good server has no blemish.
func TestLoad(t *testing.T) {
	v, paces := judged(t, &fake{})
	if v.Requests < 60 || v.Answered != v.Requests || v.Examples != nil {
		t.Errorf("%+v", v)
	}
	if len(paces) == 0 || len(paces) == v.Requests {
		t.Errorf("%d of %d requests were streamed", len(paces), v.Requests)
	}
	for _, p := range paces {
		if len(p) < 8 || !slices.IsSortedFunc(p, time.Time.Compare) {
			t.Errorf("%v", p)
		}
	}
}

// TestFaultsOfAServer: each fault is counted as what it is, once.
func TestFaultsOfAServer(t *testing.T) {
	const at = 7
	for name, c := range map[string]struct {
		bad  func(w http.ResponseWriter)
		want ledger.Verdict
	}{
		"refusal": {func(w http.ResponseWriter) { http.Error(w, "busy", http.StatusServiceUnavailable) }, ledger.Verdict{Failed: 1}},
		"error in the stream": {func(w http.ResponseWriter) { fmt.Fprint(w, "data: {\"error\":{\"message\":\"gone\"}}\n\n") },
			ledger.Verdict{Failed: 1}},
		"half an answer": {func(w http.ResponseWriter) { fmt.Fprint(w, "data: {\"choices\":[{\"text\":\"a\"}]}\n\n") }, ledger.Verdict{Lost: 1}},
		"reset":          {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, ledger.Verdict{Lost: 1}},
		"another answer": {func(w http.ResponseWriter) {
			fmt.Fprint(w, "data: {\"choices\":[{\"text\":\"x\",\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n")
		}, ledger.Verdict{Wrong: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			hit := false
			v, _ := judged(t, &fake{bad: func(n int64, w http.ResponseWriter) bool {
				if n != at {
					return false
				}
				hit = true
				c.bad(w)
				return true
			}})
			wholeAsked := v.Lost == 1 && strings.Contains(v.Examples[0], "is no completion") // the n-th was not streamed: no outcome either
			if !hit || !wholeAsked && (v.Failed != c.want.Failed || v.Lost != c.want.Lost || v.Wrong != c.want.Wrong) {
				t.Errorf("hit %v, %+v, want %+v", hit, v, c.want)
			}
		})
	}
}

// TestQuestions: they depend on the seed alone, are all different, and are of every kind.
func TestQuestions(t *testing.T) {
	a := Questions(3, 300)
	if !reflect.DeepEqual(a, Questions(3, 300)) || reflect.DeepEqual(a, Questions(4, 300)) {
		t.Error("questions do not follow their seed")
	}
	prompts, drawn, logs := map[string]bool{}, 0, 0
	for _, q := range a {
		prompts[q.Prompt] = true
		if q.Temperature > 0 {
			drawn++
		}
		if q.Logprobs {
			logs++
		}
	}
	if len(prompts) < 295 || drawn < 90 || drawn > 210 || logs < 90 || logs > 210 {
		t.Errorf("%d prompts, %d drawn with a seed, %d with logprobs", len(prompts), drawn, logs)
	}
}

// Short questions stay what they are but for their length, and still differ.
func TestShort(t *testing.T) {
	long, short := Questions(3, 50), Short(Questions(3, 50), 9)
	seen := map[string]bool{}
	for i, q := range short {
		if q.Max > 9 || q.Max < 8 || strings.Count(q.Prompt, ". ") != 1 || !strings.HasPrefix(long[i].Prompt, strings.TrimSuffix(q.Prompt, "Then the")) {
			t.Errorf("%+v of %+v", q, long[i])
		}
		if q.Seed != long[i].Seed || q.Logprobs != long[i].Logprobs {
			t.Errorf("%+v is another question than %+v", q, long[i])
		}
		seen[q.Prompt] = true
	}
	if len(seen) < 48 {
		t.Errorf("%d prompts of %d", len(seen), len(short))
	}
}
