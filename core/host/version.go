package host

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/pimoe/pimoe/core/moe"
)

// Version implements moe.Versioned: a digest of what sits in every seat, its numeric class and its executable, of the router,
// and of which seat has which units. Two editions with one version give the same bits.
func (e *editions) Version(edition uint64) string {
	h := sha256.New()
	for _, s := range e.seats {
		m := s.of(edition)
		fmt.Fprintf(h, "%d=%q %q;", s.number, m.numerics(), m.program())
	}
	if r := e.routers.of(edition); r != nil {
		fmt.Fprintf(h, "router=%q %q %q;", r.spec.Path, r.spec.Spec.Params, r.digest())
	}
	fmt.Fprintf(h, "place=%s;", e.places.of(edition).digest)
	return hex.EncodeToString(h.Sum(nil))
}

// settled is the version that every new request gets; empty while a trial gives some of them another one.
func (e *editions) settled() string {
	e.mu.Lock()
	current, mixed := e.current, e.trial != nil
	e.mu.Unlock()
	if mixed {
		return ""
	}
	return e.Version(current)
}

// Version is what computes every new request, as moe.Versioned has it; empty while a canary gives some of them another
// version.
func (h *Host) Version() string { return h.editions.settled() }

var _ moe.Versioned = (*editions)(nil)
