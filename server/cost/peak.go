package cost

import (
	"maps"
	"slices"
	"time"
)

// rise keeps the highest levels and the busiest minute. mu is held.
func (l *Ledger) rise(used map[string]Used, now Levels) {
	p := &l.peak
	p.Running, p.Queued, p.KVPages = max(p.Running, now.Running), max(p.Queued, now.Queued), max(p.KVPages, now.KVPages)
	for part, u := range used {
		l.minute.used[part] += u.CPU
	}
	took := l.o.Now().Sub(l.minute.began)
	if took < time.Minute {
		return
	}
	if m := l.minute.peak(took); m.Cores > p.Cores {
		p.Cores, p.Groups = m.Cores, m.Groups
	}
	l.minute = minute{began: l.o.Now(), used: map[string]int64{}}
}

// peak is the minute as one.
func (m minute) peak(took time.Duration) (p Peak) {
	for _, name := range slices.Sorted(maps.Keys(m.used)) {
		cores := float64(m.used[name]) / float64(max(took, 1))
		p.Cores += cores
		p.Groups = append(p.Groups, PartOfPeak{name, cores})
	}
	return p
}

// Peak is the most that was seen. Before the first minute is full it is what there is of it.
func (l *Ledger) Peak() Peak {
	l.Look()
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peak
	p.Minutes = l.o.Now().Sub(l.began).Minutes()
	if p.Minutes < 1 {
		m := l.minute.peak(l.o.Now().Sub(l.minute.began))
		p.Cores, p.Groups = m.Cores, m.Groups
	}
	return p
}
