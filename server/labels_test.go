package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/metrics"
)

// TestRoutingAccuracy: labels that are the router's own choices are all hits, others are not, and what is counted is what the answers
// say. The definition is the naive one, over the routes that the answer itself shows.
func TestRoutingAccuracy(t *testing.T) {
	own := serviceOf(openShared(t))
	own.engine, own.metrics = undrained{own.engine}, metrics.New() // a registry has one server
	r := serve(t, &own, nil)
	x := nested(hiddenStates(6, openShared(t).Model.Hidden), 2)
	body := func(expected, more string) string {
		return `{"input_tensor":` + x + `,"layer":2,"return_comprehensive_info":true,"expected_experts":` + expected + more + `}`
	}
	plain := r.ok(processPath, `{"input_tensor":`+x+`,"layer":2,"return_comprehensive_info":true}`)
	if _, there := plain["routing_accuracy"]; there {
		t.Error("an accuracy without labels")
	}
	chosen := map[[2]int][]int{}
	for _, e := range at(t, plain, "comprehensive_info", "routes").([]any) {
		m := e.(map[string]any)
		key := [2]int{int(m["batch"].(float64)), int(m["position"].(float64))}
		for _, id := range m["experts"].([]any) {
			chosen[key] = append(chosen[key], int(id.(float64)))
		}
	}
	text := func(of func(ids []int) []int) string {
		var batch []string
		for b := range 2 {
			var sequence []string
			for p := range 3 {
				sequence = append(sequence, strings.ReplaceAll(fmt.Sprint(of(chosen[[2]int{b, p}])), " ", ","))
			}
			batch = append(batch, "["+strings.Join(sequence, ",")+"]")
		}
		return "[" + strings.Join(batch, ",") + "]"
	}
	other := func(ids []int) int { // an expert that was not chosen
		for e := range 8 {
			if e != ids[0] && e != ids[1] {
				return e
			}
		}
		return -1
	}
	named, hit := 0.0, 0.0
	for what, c := range map[string]struct {
		expected, more string
		labels, hits   float64
	}{
		"all right":        {text(func(ids []int) []int { return ids }), "", 12, 12},
		"one of two right": {text(func(ids []int) []int { return []int{ids[1], other(ids)} }), "", 12, 6},
		"all wrong":        {text(func(ids []int) []int { return []int{other(ids)} }), "", 6, 0},
		"some unlabelled":  {strings.Replace(text(func(ids []int) []int { return ids }), fmt.Sprintf("[%d,%d]", chosen[[2]int{0, 0}][0], chosen[[2]int{0, 0}][1]), "[]", 1), "", 10, 10},
		"a masked one":     {text(func(ids []int) []int { return ids }), `,"attention_mask":[[1,1,0],[1,1,1]]`, 10, 10},
	} {
		got := at(t, r.ok(processPath, body(c.expected, c.more)), "routing_accuracy").(map[string]any)
		if got["labels"] != c.labels || got["hits"] != c.hits || got["ratio"] != c.hits/c.labels {
			t.Errorf("%s: %v", what, got)
		}
		named, hit = named+c.labels, hit+c.hits
	}
	m := string(r.get("/metrics").body)
	for _, line := range []string{
		fmt.Sprintf("\npimoe_routing_labels_total %v\n", named), fmt.Sprintf("\npimoe_routing_hits_total %v\n", hit), fmt.Sprintf("\npimoe_routing_accuracy_ratio %v\n", hit/named),
	} {
		if !strings.Contains(m, line) {
			t.Errorf("metrics lack %q", line)
		}
	}
	for expected, more := range map[string]string{
		"[[[0],[1],[2]]]": "", "[[[0],[1]],[[0],[1],[2]]]": "", "[[[8],[],[]],[[],[],[]]]": "", "[[[1,1],[],[]],[[],[],[]]]": "",
		"[[[-1],[],[]],[[],[],[]]]": "", "7": "", "[[[],[],[]],[[],[],[]]]": `,"all_layers":true`,
	} {
		if a := r.post(processPath, body(expected, more)); a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), "expected_experts") {
			t.Errorf("%s%s: %d %s", expected, more, a.status, a.body)
		}
	}
	if a := r.post(processPath, `{"text":"a","expected_experts":[]}`); a.status != http.StatusUnprocessableEntity {
		t.Errorf("with a text: %d", a.status)
	}
}
