package engine

import (
	"math"
	"time"
)

// courtesy keeps those who ask for more than their share from slowing down those who do not. Steps get longer with their rows, so
// everybody in a step feels everybody else's. While rows of light flows are computed the heavy ones earn time, and their rows cost it:
// so they make the others' steps longer by a bounded part, on average and, since what is earned is kept only up to the price of what
// they can use next, also over the life of a short request. Where nobody else has anything to compute they have all of the machine.
type courtesy struct {
	price  price
	credit float64 // seconds that heavy flows may use beside others; below zero after a long job
	all    float64 // seconds that were computed lately
	heavy  float64 // of these, for heavy flows
}

// computed notes that so many seconds are computed, some of them for heavy flows.
func (c *courtesy) computed(seconds, heavy float64) {
	fade := math.Exp(-seconds / lately.Seconds())
	c.all, c.heavy = c.all*fade+seconds, c.heavy*fade+heavy
}

// earn takes in that light flows compute for so many seconds. pay is what heavy ones get of that.
func (c *courtesy) earn(seconds, pay float64) {
	c.credit = min(c.credit, max(c.price.tokens(1), c.price.tokens(promptGrain))) + seconds*pay
}

// spend takes in that heavy flows compute beside light ones for so many seconds.
func (c *courtesy) spend(seconds float64) { c.credit -= seconds }

// pay is how much of the time of light flows the heavy ones earn: the configured part, or, where they have had less of the last seconds
// than their weights give them, as much as gives them that. 0 = they are not restrained.
func (l *loop) pay() float64 {
	percent := l.live.now().SlowdownPercent
	if percent <= 0 {
		return 0
	}
	pay := float64(percent) / 100
	if others := l.fair.known - l.fair.heavies; others > 0 && l.courtesy.heavy*l.fair.known < l.courtesy.all*l.fair.heavies {
		pay = max(pay, l.fair.heavies/others)
	}
	return pay
}

// restrain keeps of the candidates of heavy flows those for which there is credit, longest waiting first, if light ones are there.
// brief says that there are none, but may be soon: whoever comes waits for the end of the step.
func (l *loop) restrain(ready []*sequence) (kept []*sequence, brief bool) {
	if l.pay() == 0 {
		return ready, false
	}
	c := &l.composer
	c.order = c.order[:0]
	for i, s := range ready {
		if l.fair.heavy(s.flow, l.limits.MaxBatchSize) {
			c.order = append(c.order, i)
		}
	}
	switch len(c.order) {
	case 0:
		return ready, false
	case len(ready):
		return ready, l.fair.known > l.fair.heavies
	}
	byWaiting(c.candidates, c.order)
	credit := l.courtesy.credit
	for _, i := range c.order {
		k := &c.candidates[i]
		k.pending = l.courtesy.price.buys(credit, k.pending)
		if credit -= l.courtesy.price.tokens(k.pending); k.pending == 0 {
			credit = -1 // those behind it wait for it
		}
	}
	return c.keep(ready), false
}

// loadOf is the rows of a step, those of heavy flows apart.
func (l *loop) loadOf(entries []entry) (light, heavy load) {
	for _, e := range entries {
		if l.fair.heavy(e.s.flow, l.limits.MaxBatchSize) {
			heavy.add(e.n)
		} else {
			light.add(e.n)
		}
	}
	return light, heavy
}

// reckon pays for a step that was composed.
func (l *loop) reckon(entries []entry) {
	pay := l.pay()
	if pay == 0 {
		return
	}
	light, heavy := l.loadOf(entries)
	if light == (load{}) {
		step := l.courtesy.price.step(heavy)
		l.courtesy.computed(step, step)
		return
	}
	own, more := l.courtesy.price.step(light), l.courtesy.price.rows(heavy)
	l.courtesy.earn(own, pay)
	l.courtesy.spend(more)
	l.courtesy.computed(own+more, more)
}

// mayJob reports whether a job may run before a step: that of a heavy flow waits for credit while light ones have places.
func (l *loop) mayJob(j *job) bool {
	return l.courtesy.credit >= 0 || l.pay() == 0 || !l.fair.heavy(j.flow, l.limits.MaxBatchSize) || !l.light()
}

// light reports whether a light flow has a place.
func (l *loop) light() bool {
	for _, s := range l.running {
		if !l.fair.heavy(s.flow, l.limits.MaxBatchSize) {
			return true
		}
	}
	return false
}

// reckonJobs pays for jobs that have run together.
func (l *loop) reckonJobs(jobs []*job, took time.Duration) {
	pay := l.pay()
	if pay == 0 {
		return
	}
	all, heavy := 0.0, 0.0
	for _, j := range jobs {
		all += j.cost
		if l.fair.heavy(j.flow, l.limits.MaxBatchSize) {
			heavy += j.cost
		}
	}
	more := took.Seconds() * heavy / all
	l.courtesy.computed(took.Seconds(), more)
	if heavy < all {
		l.courtesy.earn(took.Seconds()-more, pay)
	}
	if heavy < all || l.light() {
		l.courtesy.spend(more)
	}
}
