package host

import (
	"time"

	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// State is where a process is in its life, in the words of FAULTS 5.2.
type State string

// The states.
const (
	StateStarting State = "starting" // launching, loading or being tested
	StateReady    State = "ready"
	StateFailed   State = "failed"      // a restart does not help now; tried again from time to time
	StateBarred   State = "quarantined" // it gave wrong answers; not started again until somebody says so
	StateStopped  State = "stopped"
	StateParked   State = "parked" // its group has fewer replicas just now; not started until it has more
)

// Status is what is shown of one process.
type Status struct {
	Group        string `json:"group"`
	Replica      int    `json:"replica"`
	PID          int    `json:"pid"`
	State        string `json:"state"`      // of the process
	Health       string `json:"health"`     // what the replica is used for: ready, suspect, quarantined, draining or down
	Quarantine   string `json:"quarantine"` // why it is in quarantine; empty if it is not
	Units        int    `json:"units"`
	Backend      string `json:"backend"`
	NumericClass string `json:"numeric_class"`
	Digest       string `json:"digest"`             // "sha256:..." of what the process executes
	Endpoint     string `json:"endpoint,omitempty"` // HOST:PORT of one on another machine
	Zone         string `json:"zone,omitempty"`     // where that is, as it says
	Calls        uint64 `json:"calls"`
	Rows         uint64 `json:"rows"`
	Errors       uint64 `json:"errors"`
	Restarts     uint64 `json:"restarts"`
	PrivateBytes uint64 `json:"private_bytes"`
	Lanes        int    `json:"lanes"`       // threads that serve calls; 0 over gRPC and in process
	BoundLanes   int    `json:"bound_lanes"` // of them, those that the system let bind to a core
	LastDeath    *Death `json:"last_death"`
	// ReadySince is when the process passed its first known-answer test; nil while there is none.
	ReadySince *time.Time `json:"ready_since"`
	Aside      bool       `json:"aside"` // it serves requests of another edition only, while the group is being changed
	// Confinement lists what was done to confine the process, and what was not and why; none in process.
	Confinement []client.Measure `json:"confinement"`
	// Devices compute for the process, as it said when it was last asked (Host.Devices); none for one that computes on processors.
	Devices []expert.Device `json:"devices,omitempty"`
}

func (g *group) status() []Status {
	var out []Status
	for r, s := range g.replicas {
		st := g.stats[r].status(g.spec)
		st.Replica = r
		s.describe(&st)
		if g.pool != nil {
			st.Endpoint = g.pool.at(r).Address
		}
		if s.parked.Load() && st.PID == 0 && s.barred.Load() == nil {
			continue
		}
		st.Health = string(g.state(r))
		if why := s.barred.Load(); why != nil {
			st.Quarantine = *why
		}
		out = append(out, st)
	}
	return out
}

func (s *supervisor) describe(st *Status) {
	s.mu.Lock()
	inc := s.current
	st.State, st.Restarts, st.LastDeath = string(s.state), s.restarts, s.death
	s.mu.Unlock()
	if inc != nil {
		st.PID, st.NumericClass, st.Digest, st.Zone = inc.proc.PID(), inc.info.NumericClass, inc.digest, inc.zone
		st.PrivateBytes = inc.memory.of(st.PID, time.Now())
		st.Lanes, st.BoundLanes = inc.proc.Lanes()
		st.Confinement = inc.proc.Confined()
		st.ReadySince = &inc.since
		st.Devices = inc.lastDevices()
	}
}
