package live

import (
	"fmt"

	"github.com/pimoe/pimoe/core/host"
)

// Event is something that has happened.
type Event struct {
	At     int64  `json:"t"`    // ms since 1970; 0 in Tell = now
	What   string `json:"what"` // one of the constants, or the name of a change, such as experts.swap
	Object string `json:"object"`
	Why    string `json:"why,omitempty"`
	Who    string `json:"who,omitempty"` // of a change that somebody asked for
}

// What a Hub finds by itself.
const (
	Died        = "process.died"
	Ready       = "process.ready"
	Changed     = "process.changed" // it computes with something else than the one before
	Quarantined = "replica.quarantined"
	Released    = "replica.released"
	Added       = "replica.added"
	Removed     = "replica.removed"
	TrialBegan  = "trial.began"
	TrialEnded  = "trial.ended"
)

// to is what an audience may see of it: not who did it, nor why a process ended.
func (e Event) to(a Audience) Event {
	if !a.Processes {
		e.Why, e.Who = "", ""
	}
	return e
}

// recent are the last events for an audience. The caller holds mu.
func (h *Hub) recent(a Audience) []Event {
	out := make([]Event, len(h.events))
	for i, e := range h.events {
		out[i] = e.to(a)
	}
	return out
}

// place is a replica's.
type place struct {
	group   string
	replica int
}

func (p place) String() string {
	if p.group == "" {
		return "router"
	}
	return fmt.Sprintf("%s/%d", p.group, p.replica)
}

// compare says what has happened between two States. What begins and ends between them is seen by what it leaves behind: a
// death has the number of the process that died.
func compare(before, after *State) []Event {
	var out []Event
	add := func(what, object, why string) {
		out = append(out, Event{At: after.At, What: what, Object: object, Why: why})
	}
	old := map[place]Process{}
	for _, p := range before.Processes {
		if !p.Aside {
			old[place{p.Group, p.Replica}] = p
		}
	}
	for _, now := range after.Processes {
		if now.Aside {
			continue
		}
		at := place{now.Group, now.Replica}
		was, known := old[at]
		delete(old, at)
		if !known {
			add(Added, at.String(), "")
			continue
		}
		if now.Death != nil && (was.Death == nil || *was.Death != *now.Death) {
			out = append(out, Event{At: now.Death.At, What: Died, Object: at.String(), Why: now.Death.Cause})
		}
		switch {
		case now.Quarantine != "" && was.Quarantine == "":
			add(Quarantined, at.String(), now.Quarantine)
		case now.Quarantine == "" && was.Quarantine != "":
			add(Released, at.String(), "")
		}
		switch {
		case now.PID == 0 || now.PID == was.PID || now.State != string(host.StateReady):
		case was.Class != "" && was.Backend+was.Class != now.Backend+now.Class:
			add(Changed, at.String(), fmt.Sprintf("%s %s, before: %s %s", now.Backend, now.Class, was.Backend, was.Class))
		default:
			add(Ready, at.String(), "")
		}
	}
	for _, p := range before.Processes { // in their order
		at := place{p.Group, p.Replica}
		if _, gone := old[at]; gone && !p.Aside {
			add(Removed, at.String(), "")
		}
	}
	return append(out, trialNews(before.Trial, after.Trial, after.At)...)
}

func trialNews(before, after *Trial, at int64) []Event {
	if after == nil || before != nil && before.State == after.State && before.Group == after.Group && before.Kind == after.Kind {
		return nil
	}
	what, why := TrialEnded, after.State
	if after.State == "running" {
		what, why = TrialBegan, fmt.Sprintf("%s of %s", after.Kind, after.To)
	}
	if after.Why != "" {
		why += ": " + after.Why
	}
	return []Event{{At: at, What: what, Object: after.Group, Why: why}}
}
