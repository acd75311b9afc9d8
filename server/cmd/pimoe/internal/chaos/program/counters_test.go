package program

import (
	"maps"
	"strings"
	"testing"
)

func TestCountersOf(t *testing.T) {
	const text = "# HELP pimoe_process_restarts_total x\npimoe_process_restarts_total{process=\"e3/0\"} 7\npimoe_process_restarts_total{process=\"router\"} 0\n" +
		"pimoe_expert_ready{group=\"e3\",replica=\"0\"} 1\npimoe_expert_ready{group=\"e3\",replica=\"1\"} 0\npimoe_other 5\n"
	c, err := countersOf([]byte(text))
	if err != nil || !maps.Equal(c.Restarts, map[string]uint64{"e3/0": 7, "router": 0}) || !maps.Equal(c.Ready, map[string]bool{"e3/0": true, "e3/1": false}) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{"", "pimoe_other 5\n", strings.Replace(text, "} 7", "} x", 1)} {
		if c, err := countersOf([]byte(bad)); err == nil {
			t.Errorf("%q is taken for %+v", bad, c)
		}
	}
}
