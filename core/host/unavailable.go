package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/pimoe/pimoe/sdk"
)

// UnavailableError says that an expert group or the router can't answer and why. Its text holds nothing that a client
// must not see.
type UnavailableError struct {
	What  string // "expert group e3" or "router model"
	Cause string // "its process was killed by SIGKILL"
	err   error  // the whole story, for logs
}

func (e *UnavailableError) Error() string { return e.What + " is unavailable: " + e.Cause }

// Unwrap makes it an sdk.ErrUnavailable.
func (e *UnavailableError) Unwrap() []error { return []error{sdk.ErrUnavailable, e.err} }

// hopeless is the reason why no replica will be there soon, or nil while one may.
func (g *group) hopeless() error {
	var last error
	all := g.serving()
	if g.pool != nil && len(all) == 0 { // its source may name somebody soon
		return nil
	}
	for _, s := range all {
		inc, err, hopeless := s.ready()
		if inc != nil || !hopeless {
			return nil
		}
		last = errors.Join(err, s.lastDeath())
	}
	return g.unavailable(last)
}

// timedOut tells a passed deadline, which is an answer about the group, from a caller that went away.
func (g *group) timedOut(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		for _, s := range g.serving() {
			if inc, err, _ := s.ready(); inc == nil {
				return g.unavailable(errors.Join(err, s.lastDeath()))
			}
		}
		if g.pool != nil && len(g.serving()) == 0 {
			return g.unavailable(g.pool.trouble())
		}
	}
	return fmt.Errorf("expert group %s: %w", g.spec.Name, ctx.Err())
}

func (g *group) unavailable(err error) error {
	return &UnavailableError{What: "expert group " + g.spec.Name, Cause: publicCause(err), err: err}
}

// available is nil if a replica can take a call.
func (g *group) available() error {
	if g.usable() {
		return nil
	}
	for _, s := range g.serving() {
		if _, err, _ := s.ready(); err != nil {
			return g.unavailable(errors.Join(err, s.lastDeath()))
		}
	}
	if g.pool != nil {
		return g.unavailable(g.pool.trouble())
	}
	return g.unavailable(errors.New("starting"))
}

// lastDeath is the last death as an error, nil if the process never died.
func (s *supervisor) lastDeath() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.death == nil {
		return nil
	}
	return &deathError{s.death}
}

// deathError carries a Death inside an error chain.
type deathError struct{ *Death }

func (e *deathError) Error() string { return "the process " + e.Cause }

// publicCause says in fixed words why there is no process: the last death, and what hinders a new start.
func publicCause(err error) string {
	var d *deathError
	died := ""
	if errors.As(err, &d) {
		died = "its process " + d.Cause
	}
	why := ""
	switch {
	case errors.Is(err, errBarred):
		return "it is quarantined: it gave wrong answers (see: pimoe experts)"
	case errors.Is(err, errNotExecutable):
		why = "the plugin executable is missing or not executable"
	case errors.Is(err, errBadShard):
		why = "a weight shard is damaged or missing"
	case errors.Is(err, errWrongAnswer):
		why = "it fails its known-answer test"
	case errors.Is(err, errLoad):
		why = "it can't load its weights"
	case errors.Is(err, errUntrusted):
		why = "a certificate is not accepted"
	case errors.Is(err, errDisagrees):
		why = "what runs on the other machine is not what this host expects"
	case errors.Is(err, errNoEndpoint):
		return "no endpoint of it is known"
	case errors.Is(err, errUnreachable):
		why = "no endpoint can be reached"
	case errors.Is(err, errNoBackend):
		why = "its backend can't compute on this machine"
	case errors.Is(err, errHandshake):
		why = "the plugin does not complete its handshake"
	}
	switch {
	case died == "" && why == "":
		return "no process is ready"
	case why == "":
		return died
	case died == "":
		return "it can't be started: " + why
	default:
		return died + " and can't be restarted: " + why
	}
}
