package host

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
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
	current placed
	others  map[uint64]placed // by edition; nil while nothing is being changed
}

// placed is a placement and its digest, by which what has to be computed for every request is computed once.
type placed struct {
	units  moe.Placement
	digest string
}

func placedAs(p moe.Placement) placed {
	h := sha256.New()
	for _, layer := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(h, "%d=%d;", layer, p[layer])
	}
	return placed{p, hex.EncodeToString(h.Sum(nil)[:8])}
}

func newPlaces(p moe.Placement) *places {
	s := &places{}
	s.table.Store(&placing{current: placedAs(p)})
	return s
}

// of is the placement of an edition.
func (s *places) of(edition uint64) placed {
	t := s.table.Load()
	if p, ok := t.others[edition]; ok {
		return p
	}
	return t.current
}

// Of implements moe.Places.
func (s *places) Of(edition uint64) moe.Placement { return s.of(edition).units }

// shift deals the units anew; the editions in use keep what they have.
func (s *places) shift(p moe.Placement, old []uint64) {
	others := map[uint64]placed{}
	for _, n := range old {
		others[n] = s.of(n)
	}
	s.table.Store(&placing{current: placedAs(p), others: others})
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
