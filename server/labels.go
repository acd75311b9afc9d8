package server

import (
	"slices"
	"strconv"
	"sync"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/strictjson"
)

// labels count how the router's choices compare with what requests expected.
type labels struct {
	r *metrics.Registry

	mu         sync.Mutex // guards what follows
	named, hit uint64
}

// count takes how many experts a request has expected, and how many of them were chosen. The series begin with the first.
func (l *labels) count(named, hit int) {
	if named == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.named, l.hit = l.named+uint64(named), l.hit+uint64(hit)
	l.r.Counter("pimoe_routing_labels_total").Add(named)
	l.r.Counter("pimoe_routing_hits_total").Add(hit)
	l.r.Gauge("pimoe_routing_accuracy_ratio", nil).Set(float64(l.hit) / float64(l.named))
}

// accuracy is what a request's labels say of its routes.
type accuracy struct {
	Labels int     `json:"labels"` // expected experts
	Hits   int     `json:"hits"`   // of them, those that were chosen
	Ratio  float64 `json:"ratio"`
}

// judged compares the routes of a request with its labels; nil where it has none. An expected expert that is among those of its
// position is a hit, whatever its weight; masked positions don't count.
func (in *processInput) judged(routes []engine.RouteInfo) *accuracy {
	a := &accuracy{}
	if in.expected == nil {
		return nil
	}
	for _, r := range routes {
		for _, id := range in.expected[in.states.used[r.Row]] {
			a.Labels++
			if slices.Contains(r.IDs, id) {
				a.Hits++
			}
		}
	}
	if a.Labels == 0 {
		return nil
	}
	a.Ratio = float64(a.Hits) / float64(a.Labels)
	return a
}

// readExpected reads [batch][sequence][ids] and puts the lists of all positions one after the other. It refuses labels where it is not
// clear what they are about: without a tensor, and with several layers.
func (s *Server) readExpected(in *processInput, v strictjson.Value) error {
	if v.Null() {
		return nil
	}
	if in.states == nil || in.all {
		return v.Errorf("nothing without input_tensor, or with all_layers: expected experts are of one layer")
	}
	batch, err := v.ArrayUpTo(in.states.shape[0])
	if err != nil {
		return err
	}
	for _, sequence := range batch {
		positions, err := sequence.ArrayUpTo(in.states.shape[1])
		if err != nil {
			return err
		}
		if len(positions) != in.states.shape[1] {
			return sequence.Errorf("%d positions", in.states.shape[1])
		}
		for _, p := range positions {
			ids, err := s.expertIDs(p)
			if err != nil {
				return err
			}
			in.expected = append(in.expected, ids)
		}
	}
	if len(batch) != in.states.shape[0] {
		return v.Errorf("%d sequences", in.states.shape[0])
	}
	return nil
}

// expertIDs reads a list of different experts.
func (s *Server) expertIDs(v strictjson.Value) ([]int32, error) {
	list, err := v.ArrayUpTo(s.service.width)
	if err != nil {
		return nil, err
	}
	ids := make([]int32, 0, len(list))
	for _, x := range list {
		id, err := x.Int(0, int64(s.service.width-1))
		if err != nil {
			return nil, err
		}
		if slices.Contains(ids, int32(id)) {
			return nil, &strictjson.Error{Path: x.Path(), Expected: "each expert once", Got: strconv.FormatInt(id, 10) + " again"}
		}
		ids = append(ids, int32(id))
	}
	return ids, nil
}
