package host

// Layout is the shape of the routed experts and who serves them: for whoever shows the load of units.
type Layout struct {
	Layers  []int    `json:"layers"` // ascending
	Experts int      `json:"experts"`
	Groups  []string `json:"groups"`
	// Units is the place in Groups of the group that serves a unit, by layer, then expert; -1 = none.
	Units []int `json:"units"`
}

// Layout is the host's; it does not change while it runs.
func (h *Host) Layout() Layout {
	var l Layout
	if h.heat == nil {
		return l
	}
	l.Layers, l.Experts = h.heat.layers, h.heat.experts
	place := map[int]int{}
	for at, layer := range l.Layers {
		place[layer] = at
	}
	l.Units = make([]int, len(h.heat.units))
	for i := range l.Units {
		l.Units[i] = -1
	}
	for n, s := range h.groups {
		l.Groups = append(l.Groups, s.name)
		g := s.own()
		if g == nil {
			continue
		}
		for _, u := range g.spec.Units {
			if at, known := place[u.Layer]; known {
				l.Units[at*l.Experts+u.Expert] = n
			}
		}
	}
	return l
}

// Rows puts the rows that each unit has computed since the host's start into to, in the order of Layout.Units, and returns it;
// to may be nil. It is Heat without a map, for those who ask several times a second.
func (h *Host) Rows(to []int64) []int64 {
	to = to[:0]
	if h.heat == nil {
		return to
	}
	for i := range h.heat.units {
		to = append(to, h.heat.units[i].rows.Load())
	}
	return to
}
