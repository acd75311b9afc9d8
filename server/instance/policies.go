package instance

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/profile"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
)

// remedies are what the expert groups do while they can't answer, and which of them can do something.
type remedies struct {
	policies []moe.Policy // by group of the host, with the groups that stand by
	main     int          // groups before those that stand by
	plans    []config.GroupPlan
}

// remediesOf turns plans into policies; the groups that stand by follow the main ones, in the order of their owners.
func remediesOf(c config.Config, plans []config.GroupPlan) (r remedies, all []config.GroupPlan, err error) {
	r.main, all = len(plans), plans[:len(plans):len(plans)]
	for _, p := range plans {
		kind, err := moe.KindOf(p.Policy)
		if err != nil {
			return r, nil, err
		}
		policy := moe.Policy{
			Kind: kind, MaxDroppedMass: c.Degraded.MaxDroppedMass, MinExperts: c.Degraded.MinExperts, Substitutes: p.Substitutes,
		}
		if p.Fallback != nil {
			policy.Fallback = len(all)
			all = append(all, *p.Fallback)
		}
		r.policies = append(r.policies, policy)
	}
	r.policies = append(r.policies, make([]moe.Policy, len(all)-len(plans))...)
	r.plans = all
	return r, all, nil
}

// wrapped are the groups as the options want them.
func (r remedies) wrapped(groups []moe.Group, o Options) []moe.Group {
	if o.Wrap != nil {
		for g := range groups {
			groups[g] = o.Wrap(r.plans[g], groups[g])
		}
	}
	return groups
}

// readProfile marks the experts that no policy may drop or replace, as far as the model was measured.
func (i *Instance) readProfile(stored *weights.Model) error {
	if !i.Lenient() {
		return nil
	}
	p, err := profile.Read(stored.Profile(), i.Digest)
	if errors.Is(err, sdk.ErrNotFound) {
		i.Notes = append(i.Notes, "the model has no profile, so no expert counts as critical; pimoe experts profile makes one")
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w (pimoe experts profile makes a new one)", err)
	}
	for g := range i.remedies.policies {
		i.remedies.policies[g].Critical = p.Critical()
	}
	return nil
}

// Ready is nil when a request would be answered now, if need be as the policy allows; else it names what is missing or
// damaged.
func (i *Instance) Ready() error {
	if err := i.watch.damage(); err != nil {
		return err
	}
	for g, p := range i.remedies.policies[:i.remedies.main] {
		err := i.Host.Available(g)
		if err != nil && p.Kind == moe.Fallback {
			err = i.Host.Available(p.Fallback)
		} else if p.Kind != moe.Strict {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return i.Host.RouterAvailable()
}

// Lenient reports whether some policy is another one than strict.
func (i *Instance) Lenient() bool {
	return slices.ContainsFunc(i.remedies.policies, func(p moe.Policy) bool { return p.Kind != moe.Strict })
}

// Lacking names what is missing for an exact answer; nil if nothing is.
func (i *Instance) Lacking() error {
	if err := i.watch.damage(); err != nil {
		return err
	}
	for g := range i.remedies.main {
		if err := i.Host.Available(g); err != nil {
			return err
		}
	}
	return i.Host.RouterAvailable()
}

// Classes are the numeric classes of the main groups, and those of the groups that stand by.
func (i *Instance) Classes() (main, standby []string) {
	for g := range i.remedies.policies {
		list := &main
		if g >= i.remedies.main {
			list = &standby
		}
		*list = append(*list, i.Host.Class(g))
	}
	return main, standby
}
