package host

import (
	"sync/atomic"

	"github.com/pimoe/pimoe/core/moe"
)

// places say which group serves each unit, and while units are being dealt anew, which one did so for requests of older
// editions.
type places struct {
	table atomic.Pointer[placing]
}

// placing is never changed, only replaced.
type placing struct {
	current moe.Placement
	others  map[uint64]moe.Placement // by edition; nil while nothing is being changed
}

func newPlaces(p moe.Placement) *places {
	s := &places{}
	s.table.Store(&placing{current: p})
	return s
}

// Of implements moe.Places.
func (s *places) Of(edition uint64) moe.Placement {
	t := s.table.Load()
	if p, ok := t.others[edition]; ok {
		return p
	}
	return t.current
}

// shift deals the units anew; the editions in use keep what they have.
func (s *places) shift(p moe.Placement, old []uint64) {
	others := map[uint64]moe.Placement{}
	for _, n := range old {
		others[n] = s.Of(n)
	}
	s.table.Store(&placing{current: p, others: others})
}

func (s *places) title() string { return "placement of the units" }

// forget implements place.
func (s *places) forget(old []uint64) {
	t := s.table.Load()
	s.table.Store(&placing{current: t.current, others: without(t.others, old)})
}

var (
	_ moe.Places = (*places)(nil)
	_ place      = (*places)(nil)
)
