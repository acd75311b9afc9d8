package meter

import (
	"sync"

	"github.com/pimoe/pimoe/core/metrics"
)

// Other is the name under which tenants without series of their own are counted together; no tenant can have it.
const Other = "(other)"

// mostNames bounds the tenants of one interval: more than any machine can answer requests of in an interval of a second.
const mostNames = 4096

// shares divides what the processes have used by the tokens that were computed for each tenant meanwhile. It is an estimate: a
// token of a long context costs more than one of a short one, and the experts that it is routed to may be busier than others.
type shares struct {
	top *metrics.Top

	mu     sync.Mutex // guards what follows: of the interval that runs
	tokens map[string]float64
	all    float64
}

func newShares(tenants int) *shares {
	return &shares{top: metrics.NewTop(tenants, 3), tokens: map[string]float64{}}
}

func (s *shares) spent(tenant string, tokens float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.tokens[tenant]; !known && len(s.tokens) >= mostNames {
		tenant = Other
	}
	s.tokens[tenant] += tokens
	s.all += tokens
}

// settle ends the interval: cpu seconds and bytes were used in it. What was used while nothing was computed is nobody's.
func (s *shares) settle(cpu, read float64, turn bool) {
	s.mu.Lock()
	tokens, all := s.tokens, s.all
	s.tokens, s.all = map[string]float64{}, 0
	s.mu.Unlock()
	for tenant, n := range tokens {
		if tenant != "" {
			s.top.Add(tenant, n, cpu*n/all, read*n/all)
		}
	}
	if turn {
		s.top.Turn()
	}
}

// each calls f for each tenant with what it has used.
func (s *shares) each(f func(tenant string, cpu, read float64)) {
	s.top.Each(Other, func(name string, values []float64) { f(name, values[1], values[2]) })
}
