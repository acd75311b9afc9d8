package engine

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/pimoe/pimoe/core/config"
)

// Priority orders requests that wait at the same time. It changes shares, so that none ever waits for ever.
type Priority int

// The priorities: while requests of all three wait, each level gets sixteen times the tokens of the one below it.
const (
	Low    Priority = -1
	Normal Priority = 0
	High   Priority = 1
)

// priorityStep is the weight of a level beside the one below it. Low must leave normal requests of the same tenant, and of
// others, nearly undisturbed: it takes a seventeenth from them.
const priorityStep = 16

// flowKey names a flow: requests that wait in one line.
type flowKey struct {
	tenant   string
	priority Priority
}

// weight is a flow's share.
func (k flowKey) weight(l *config.Limits) float64 {
	w := float64(l.Weight(k.tenant))
	switch k.priority {
	case Low:
		return w / priorityStep
	case High:
		return w * priorityStep
	}
	return w
}

// flow is one line as the loop sees it.
type flow struct {
	flowKey
	weight  float64
	paid    float64   // the virtual time up to which its shares are used up
	waiting int       // that have not had a place yet
	begun   int       // that have had one and have not ended
	left    time.Time // when the last one has ended
	asked   float64   // what its requests of late cost
	faded   time.Time // up to when asked has faded
	held    int       // places
	seen    uint64    // the last choice in which its first one was looked at
	rank    int       // of its candidates so far, while a step is composed
}

// fair is start-time fair queueing (Goyal, Vin and Cheng 1996) of requests by their tokens: of all flows that wait the one goes
// first that has had least, measured in tokens by weight, since it began to wait; what it was idle before does not count.
// While two flows wait, what they are given differs, by weight, by no more than their largest requests.
//
// It holds values only; the loop owns it.
type fair struct {
	now    float64 // virtual time: of the last one that was given a place
	flows  map[flowKey]*flow
	active float64 // weights of the flows that wait or run
	turn   uint64

	looked  time.Time // when known and heavies were counted
	known   float64   // weights of the flows that wait or run, or did so lately
	heavies float64   // of these, of the heavy ones
	asked   float64   // what requests of late cost
}

const (
	// lately is for how long a flow that has nothing to do keeps its share from being taken for granted by others: a person reads an answer
	// before the next question.
	lately = 10 * time.Second
	// lookEvery is how old the count of flows may be.
	lookEvery = 100 * time.Millisecond
	// lightPart is the part of a step that no flow is heavy with, however many flows there are.
	lightPart = 1. / 8
	// lightMore is by how much what a flow has asked for of late may be above its share: where all ask for the same, none is heavy.
	lightMore = 1.25
)

// heavy reports whether a flow asks for more than its share: it has more requests than its weight gives it places in a step, among
// the flows known lately, and more than lightPart of them. Up to twice as many may have come together by chance: they make a flow
// heavy, to be slowed down until more of them are together, only if it has asked for more than its share before.
func (f *fair) heavy(w *flow, batch int) bool {
	share := lightPart
	if f.known > 0 {
		share = max(share, w.weight/f.known)
	}
	much := float64(w.waiting+w.begun) / (share * float64(batch))
	return much > 2 || much > 1 && w.asked*f.known > lightMore*w.weight*f.asked
}

// look counts the flows.
func (f *fair) look(now time.Time, batch int) {
	if now.Sub(f.looked) < lookEvery && now.After(f.looked) {
		return
	}
	f.looked, f.known, f.heavies, f.asked = now, 0, 0, 0
	for _, w := range f.flows {
		if w.waiting+w.begun > 0 || now.Sub(w.left) < lately {
			w.fade(now)
			f.known += w.weight
			f.asked += w.asked
		}
	}
	for _, w := range f.flows {
		if f.heavy(w, batch) {
			f.heavies += w.weight
		}
	}
}

// fade forgets what was asked for long ago.
func (w *flow) fade(now time.Time) {
	if d := now.Sub(w.faded); d > 0 {
		w.asked *= math.Exp(-d.Seconds() / lately.Seconds())
		w.faded = now
	}
}

// idleFlows is how many flows are remembered that neither wait nor run: their tenants would otherwise gain by pausing.
const idleFlows = 1024

func newFair() *fair { return &fair{flows: map[flowKey]*flow{}} }

// of is the flow of a key, which has the given weight from now on.
func (f *fair) of(key flowKey, weight float64) *flow {
	w := f.flows[key]
	if w == nil {
		f.forget()
		w = &flow{flowKey: key, weight: weight}
		f.flows[key] = w
	}
	if w.weight != weight && w.waiting+w.begun > 0 {
		f.active += weight - w.weight
	}
	w.weight = weight
	return w
}

// forget drops flows that are idle, where there are many.
func (f *fair) forget() {
	if len(f.flows) < idleFlows {
		return
	}
	for key, w := range f.flows {
		if w.waiting+w.begun == 0 {
			delete(f.flows, key)
		}
	}
}

// wait adds a request to its flow.
func (f *fair) wait(w *flow, cost float64, now time.Time) {
	w.fade(now)
	w.asked += cost
	if w.waiting == 0 {
		w.paid = max(w.paid, f.now)
	}
	if w.waiting+w.begun == 0 {
		f.active += w.weight
	}
	w.waiting++
}

// start charges a flow for a request that gets a place, and gives the request's tag.
func (f *fair) start(w *flow, cost float64) (tag float64) {
	tag = w.paid
	f.now = max(f.now, tag)
	w.paid += cost / w.weight
	w.waiting--
	w.begun++
	return tag
}

// inTurn puts jobs into the order of their turns: each flow's own stay in their order, and those that have had a turn go before
// others of their flow.
func (f *fair) inTurn(jobs []*job) {
	next := map[*flow]float64{}
	for _, j := range jobs {
		if j.begun {
			continue
		}
		tag, ok := next[j.flow]
		if !ok {
			tag = j.flow.paid
		}
		j.tag, next[j.flow] = tag, tag+j.cost/j.flow.weight
	}
	slices.SortStableFunc(jobs, func(a, b *job) int { return cmp.Compare(a.tag, b.tag) })
}

// end takes a request out of its flow; settled is what it cost beyond what it was charged for.
func (f *fair) end(w *flow, started bool, settled float64, now time.Time) {
	w.left = now
	if started {
		w.begun--
		w.paid += settled / w.weight
	} else {
		w.waiting--
	}
	if w.waiting+w.begun == 0 {
		if f.active -= w.weight; len(f.flows) == 1 {
			f.active = 0 // what rounding has left
		}
	}
}

// beyond reports whether a flow has as many of so many places as its weight gives it among the flows that wait or run. While
// others wait that have fewer, they go first: a flood of one tenant does not hold all places.
func (f *fair) beyond(w *flow, places int) bool {
	return float64(w.held) >= f.share(w, places)
}

// share is how many of so many places a flow's weight gives it among the flows that wait or run; at least one.
func (f *fair) share(w *flow, places int) float64 { return max(float64(places)*w.weight/f.active, 1) }

// choose is whose turn it is for a place among waiting sequences, oldest first; nil = nobody's. One that was sent back has
// been paid for, so it goes before others of its flow.
func (f *fair) choose(queue []*sequence, places int) (best *sequence) {
	f.turn++
	var bestBeyond bool
	var bestTag float64
	for _, s := range queue {
		w := s.flow
		tag := w.paid
		if s.placed {
			tag = s.tag
		} else if w.seen == f.turn {
			continue
		}
		if !s.stream.room(s.unsent) {
			continue
		}
		if !s.placed {
			w.seen = f.turn
		}
		beyond := f.beyond(w, places)
		if best == nil || bestBeyond && !beyond || bestBeyond == beyond && tag < bestTag {
			best, bestBeyond, bestTag = s, beyond, tag
		}
	}
	return best
}
