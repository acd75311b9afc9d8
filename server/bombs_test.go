package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// zipped is a megabyte that gzip makes a thousand bytes of.
func zipped(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.CopyN(z, strings.NewReader(strings.Repeat("0", 1<<20)), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Requests that are small to send and meant to be dear to read are refused at once, and cost little memory. The test prints what
// each takes; the limits leave room for a busy machine.
func TestBombs(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{script: fails(0, context.Canceled)}), nil)
	wide := func(n int, member string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, member, i)
		}
		return b.String()
	}
	const million = 1 << 20
	prompt := func(v string) string { return `{"model":"fake","prompt":` + v + `}` }
	for name, c := range map[string]struct {
		body    string
		headers []string
	}{
		"a million brackets":               {body: strings.Repeat("[", million)},
		"nested arrays":                    {body: prompt(strings.Repeat("[", 5000) + strings.Repeat("]", 5000))},
		"nested objects":                   {body: prompt(strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000))},
		"a number of a million digits":     {body: `{"model":"fake","prompt":"a","temperature":` + strings.Repeat("9", million) + `}`},
		"a fraction of a million":          {body: `{"model":"fake","prompt":"a","max_tokens":0.` + strings.Repeat("9", million) + `}`},
		"a huge exponent":                  {body: `{"model":"fake","prompt":"a","temperature":1e999999999}`},
		"an exponent of many digits":       {body: `{"model":"fake","prompt":"a","max_tokens":1e` + strings.Repeat("9", million) + `}`},
		"a negative exponent":              {body: `{"model":"fake","prompt":"a","max_tokens":1e-` + strings.Repeat("9", 1000) + `}`},
		"a hundred thousand fields":        {body: `{"model":"fake"` + wide(100_000, `,"f%d":1`) + `}`},
		"a field a hundred thousand times": {body: `{"model":"fake"` + strings.Repeat(`,"prompt":"a"`, 100_000) + `}`},
		"keys that differ in escapes":      {body: `{"model":"fake","prompt":"a","pr\u006fmpt":"b"}`},
		"a million escapes":                {body: `{"model":"fake","prompt":"a","user":` + strings.Repeat("1", 10) + `,"x":"` + strings.Repeat(`\u0041`, million/6) + `"}`},
		"half a surrogate pair":            {body: prompt(`"\ud83d"`)},
		"the wrong half":                   {body: prompt(`"\ude00\ud83d"`)},
		"broken UTF-8":                     {body: prompt("\"\xc3\x28\"")},
		"zero bytes":                       {body: strings.Repeat("\x00", million)},
		"a million tokens":                 {body: prompt("[" + strings.Repeat("1,", million) + "1]")},
		"a body above the limit":           {body: strings.Repeat(" ", generateBody+1)},
		"a compressed body":                {body: zipped(t), headers: []string{"Content-Encoding", "gzip"}},
		"a twice compressed body":          {body: zipped(t), headers: []string{"Content-Encoding", "gzip, gzip"}},
		"another compression":              {body: zipped(t), headers: []string{"Content-Encoding", "br"}},
		"parts":                            {body: strings.Repeat("--x\r\n\r\n\r\n", 50_000) + "--x--", headers: []string{"Content-Type", "multipart/form-data; boundary=x"}},
		"a form":                           {body: strings.Repeat("a=b&", 200_000), headers: []string{"Content-Type", "application/x-www-form-urlencoded"}},
		"UTF-16":                           {body: "\xff\xfe{\x00}\x00", headers: []string{"Content-Type", "application/json; charset=utf-16"}},
	} {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		headers := append([]string{"Content-Type", "application/json"}, c.headers...)
		a := do(t, http.MethodPost, r.url+"/v1/completions", c.body, headers...)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		grown := int64(after.HeapSys) - int64(before.HeapSys)
		t.Logf("%-34s %8d bytes: %d in %s, heap %+d KiB", name, len(c.body), a.status, took.Round(10*time.Microsecond), grown>>10)
		if a.status < 400 || a.status > 499 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if took > 5*time.Second || grown > 128<<20 {
			t.Errorf("%s took %s and %d MiB", name, took, grown>>20)
		}
	}
	a := do(t, http.MethodPost, r.url+processPath, "", "Content-Type", "application/octet-stream", "X-Tensor-Shape", "1000000000,1000000000")
	if a.status < 400 || a.status > 499 {
		t.Errorf("a shape without a tensor: %d", a.status)
	}
}
