package instance

import (
	"slices"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/moe"
)

// remedies are what the expert groups do while they can't answer, and which of them can do something.
type remedies struct {
	policies []moe.Policy // by group of the host, with the groups that stand by
	main     int          // groups before those that stand by
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
	return r, all, nil
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
