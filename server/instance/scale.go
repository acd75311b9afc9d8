package instance

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/scaling"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// budget is what all expert processes may take together.
func budget(c config.Config) host.Budget {
	return host.Budget{Processes: c.Experts.MaxProcesses, Memory: int64(c.Limits.MemoryMB) << 20}
}

// scalingRules say when groups grow and shrink.
func scalingRules(c config.Config) scaling.Rules {
	s := c.Experts.Scaling
	return scaling.Rules{Busy: float64(s.BusyPercent) / 100, Window: s.Window, CoolDown: s.CoolDown, Cores: Threads(c)}
}

// overBudget names the setting that an error is about.
func overBudget(err error) error {
	over := (*host.OverBudgetError)(nil)
	if !errors.As(err, &over) {
		return err
	}
	const mib = 1 << 20
	return config.Problems{{Key: "limits.memory_mb", Value: strconv.FormatInt(over.Budget/mib, 10),
		Want: fmt.Sprintf("at least %d, or a smaller experts.max_processes: %v", (over.Need+mib-1)/mib, over)}}
}

// Scale gives a group so many replicas, whatever its load; 0 = it follows its load again. See host.Scale.
func (i *Instance) Scale(group string, replicas int) (*host.GroupStatus, error) {
	return i.Host.Scale(group, replicas)
}

// Regrouped is a group before and after a Rebalance.
type Regrouped struct {
	Group  string  `json:"group"`
	Units  int     `json:"units"`  // now
	Heat   float64 `json:"heat"`   // share of the work of all groups, now
	Later  int     `json:"later"`  // units afterwards
	Cooled float64 `json:"cooled"` // share of the work afterwards
}

// Rebalance is a grouping of the units by what they have had to do since the start.
type Rebalance struct {
	Before scaling.Balance `json:"before"`
	After  scaling.Balance `json:"after"`
	Moved  int             `json:"moved"` // units with another group
	Groups []Regrouped     `json:"groups"`
	// Group is the value of experts.group that makes it so.
	Group map[string]any `json:"experts_group"`
}

// Rebalance proposes a grouping of the units over the present groups by measured heat; see scaling.Regroup. Nothing is changed.
// It waits for a reload that is on its way.
func (i *Instance) Rebalance() (*Rebalance, error) {
	i.reloading.Lock()
	defer i.reloading.Unlock()
	return i.rebalance()
}

// Regroup has the units computed in the groups that Rebalance proposes: a reload with another experts.group, under load. Groups
// that stand by follow those that they stand by for. Reloaded is nil where no unit changes places.
func (i *Instance) Regroup(ctx context.Context) (*Rebalance, *Reloaded, error) {
	i.reloading.Lock()
	defer i.reloading.Unlock()
	r, err := i.rebalance()
	if err != nil || r.Moved == 0 {
		return r, nil, err
	}
	next := i.Applied()
	next.Experts.Group = r.Group
	done, err := i.reload(ctx, next)
	if err != nil {
		return nil, nil, fmt.Errorf("rebalance: %w", err)
	}
	return r, done, nil
}

// rebalance is Rebalance. The caller holds reloading.
func (i *Instance) rebalance() (*Rebalance, error) {
	counts := i.Host.Heat()
	if counts == nil {
		return nil, fmt.Errorf("rebalance: the experts run in the host's own process: %w", sdk.ErrUnsupported)
	}
	heat, total := map[expert.Unit]float64{}, 0.
	for u, h := range counts {
		heat[u] = h.Work()
		total += heat[u]
	}
	var now []scaling.Grouping
	for g, p := range i.plans[:i.remedies.main] {
		now = append(now, scaling.Grouping{Name: p.Name, Kind: kind(p) + i.Host.Class(g), Units: p.Units})
	}
	later, moved := scaling.Regroup(now, heat)
	r := &Rebalance{Before: scaling.BalanceOf(now, heat), After: scaling.BalanceOf(later, heat), Moved: moved}
	units := map[string][]expert.Unit{}
	for g := range now {
		units[now[g].Name] = later[g].Units
		r.Groups = append(r.Groups, Regrouped{
			Group: now[g].Name, Units: len(now[g].Units), Heat: share(now[g], heat, total),
			Later: len(later[g].Units), Cooled: share(later[g], heat, total),
		})
	}
	r.Group = config.GroupLists(units)
	return r, nil
}

func share(g scaling.Grouping, heat map[expert.Unit]float64, total float64) float64 {
	sum := 0.
	for _, u := range g.Units {
		sum += heat[u]
	}
	return sum / max(total, 1) // work is whole numbers: without any, all shares are 0
}

// kind is all that units must share to change places: settings that belong to units, not to groups.
func kind(p config.GroupPlan) string {
	text := fmt.Sprintf("%s %s %s %s %d %d %d %s %v ", p.Backend, p.Plugin, p.Precision, p.Device, p.Replicas, p.MaxReplicas, p.Standby, p.Policy, p.Substitutes)
	if f := p.Fallback; f != nil {
		text += fmt.Sprintf("%s %s %s ", f.Backend, f.Plugin, f.Precision)
	}
	return text
}
