package openmetrics_test

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/openmetrics"
)

// Types and helps are those of the text, each metric is in one piece, and exemplars stand beside the buckets that count them.
func TestWrite(t *testing.T) {
	const in = `# HELP a_total the "first" one
# TYPE a_total counter
a_total{x="1"} 5
a_total{x="}, \" y"} 6
# TYPE both gauge
both 1
# HELP both_total would have the name of a gauge
# TYPE both_total counter
both_total 2
# TYPE g gauge
g 3
# TYPE h_seconds histogram
h_seconds_bucket{r="GET /x",le="0.1"} 1
h_seconds_bucket{r="GET /x",le="+Inf"} 2
h_seconds_sum{r="GET /x"} 7.5
h_seconds_count{r="GET /x"} 2
# TYPE n histogram
n_bucket{le="1"} 1
# TYPE odd counter
odd 9
# TYPE p_seconds summary
p_seconds{quantile="0.5"} 1
p_seconds_sum 2
p_seconds_count 3
# a word
lonely_count 4
go_info_ext{compiler="gc", GOARCH="a, b", GOROOT=""} 1
`
	const want = `# TYPE a counter
# HELP a the \"first\" one
a_total{x="1"} 5
a_total{x="}, \" y"} 6
# TYPE both gauge
both 1
# TYPE both_total unknown
# HELP both_total would have the name of a gauge
both_total 2
# TYPE g gauge
g 3
# TYPE h_seconds histogram
h_seconds_bucket{r="GET /x",le="0.1"} 1 # {trace_id="t1"} 0.05 1700000000.500
h_seconds_bucket{r="GET /x",le="+Inf"} 2 # {trace_id="t2"} 9 1700000000.500
h_seconds_sum{r="GET /x"} 7.5
h_seconds_count{r="GET /x"} 2
# TYPE n histogram
n_bucket{le="1"} 1
# TYPE odd unknown
odd 9
# TYPE p_seconds summary
p_seconds{quantile="0.5"} 1
p_seconds_sum 2
p_seconds_count 3
# TYPE lonely_count unknown
lonely_count 4
# TYPE go_info_ext unknown
go_info_ext{compiler="gc",GOARCH="a, b",GOROOT=""} 1
# EOF
`
	at := time.UnixMilli(1_700_000_000_500)
	asked := map[string]bool{}
	var out bytes.Buffer
	err := openmetrics.Write(&out, []byte(in), func(series string, le float64) (openmetrics.Exemplar, bool) {
		asked[series] = true
		switch {
		case series != openmetrics.Series("h_seconds", "r", "GET /x"):
			return openmetrics.Exemplar{}, false
		case le == 0.1:
			return openmetrics.Exemplar{TraceID: "t1", Value: 0.05, Time: at}, true
		case math.IsInf(le, 1):
			return openmetrics.Exemplar{TraceID: "t2", Value: 9, Time: at}, true
		}
		return openmetrics.Exemplar{}, false
	})
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, &out, want)
	}
	if len(asked) != 2 || !asked["n"] {
		t.Errorf("asked for %v", asked)
	}
}

func TestWanted(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "text/plain": false, "*/*": false,
		"application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5": true,
	} {
		if openmetrics.Wanted(accept) != want {
			t.Errorf("%q", accept)
		}
	}
	if s := openmetrics.Series("x", "a", "b\"\\\nc"); s != `x{a="b\"\\\nc"}` || openmetrics.Series("x") != "x" || strings.Contains(s, "\n") {
		t.Errorf("series %s", s)
	}
}
