package host_test

import (
	"runtime"
	"testing"
)

// Every process has a lane on each core, bound to it, and says so.
func TestLanesAreBound(t *testing.T) {
	h := startWorkers(t, 0)
	for _, st := range h.Status() {
		if st.Lanes != min(runtime.NumCPU(), 4) || st.BoundLanes != st.Lanes {
			t.Errorf("group %s: %d of %d lanes are bound, on %d cores", st.Group, st.BoundLanes, st.Lanes, runtime.NumCPU())
		}
	}
}
