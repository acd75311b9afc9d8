package moe

// Rescued is told of rows whose expert did not answer: which group it was of, and what was done about it.
type Rescued func(group int, how Kind, refused bool)

// Tell has f told of all rescues from now on, for counting; it must return at once. It is called before the first Forward.
func (l *Layer) Tell(f Rescued) { l.told = f }

// tell tells of what became of each row and expert that did not answer.
func (r *rescue) tell() {
	if r.l.told == nil {
		return
	}
	for _, s := range r.rows {
		for i := range s.slots {
			if m := &s.slots[i]; m.bad {
				r.l.told(r.group(m), m.kind, s.outcome.Err != nil)
			}
		}
	}
}
