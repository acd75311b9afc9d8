package moe

import (
	"context"
	"fmt"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// Kind says what happens to a row whose expert can't answer.
type Kind uint8

// The kinds.
const (
	Strict      Kind = iota // the row waits for the expert or has no answer
	Fallback                // a group of another numeric class computes the same expert
	Renormalise             // the row goes without the expert, the others take its weight in proportion to theirs
	Substitute              // another expert of the layer, named beforehand, takes its place and weight
)

var kindNames = [...]string{"strict", "fallback", "renormalise", "substitute"}

func (k Kind) String() string { return kindNames[k] }

// KindOf is the kind of a name.
func KindOf(name string) (Kind, error) {
	for k, n := range kindNames {
		if n == name {
			return Kind(k), nil
		}
	}
	return 0, fmt.Errorf("policy %q is none of %v: %w", name, kindNames, sdk.ErrInvalid)
}

// The limits of Renormalise that are used where nobody says otherwise: a quarter of the mass is what the second of two
// experts typically has at most when the first is clearly the one, and a row without any expert is no answer.
const (
	DefaultMaxDroppedMass = 0.25
	DefaultMinExperts     = 1
)

// Policy is what is done for the rows of one group while it can't answer. Its values are taken as they are: no zero stands
// for a default.
type Policy struct {
	Kind Kind
	// MaxDroppedMass is the largest share of a row's gate mass that Renormalise drops, MinExperts how many of the row's
	// experts must be left. A row beyond either has no answer.
	MaxDroppedMass float64
	MinExperts     int
	// Substitutes names for an expert the one that takes its place, for Substitute. There are no chains: a substitute that
	// can't answer either leaves the row without an answer.
	Substitutes map[int]int
	// Fallback is the index of the group that serves the same units, for Fallback.
	Fallback int
	// Critical are units that Renormalise never drops and Substitute never replaces.
	Critical map[expert.Unit]bool
}

// Accept is what the owner of a row takes where the exact answer can't be had. It can only narrow the policy.
type Accept uint8

// What rows accept.
const (
	AcceptExact      Accept = iota // nothing else: as if the policy were Strict
	AcceptRepeatable               // nothing whose result depends on more than the declared models: no Renormalise
	AcceptAny                      // whatever the policy does
)

// Kinds is a set of kinds.
type Kinds uint8

// With adds a kind.
func (s Kinds) With(k Kind) Kinds { return s | 1<<k }

// Has reports whether a kind is in the set.
func (s Kinds) Has(k Kind) bool { return s&(1<<k) != 0 }

// Outcome is what one layer made of one row whose experts did not all answer.
type Outcome struct {
	Kinds   Kinds   // what was done
	Dropped float64 // share of the row's gate mass whose experts did not answer, nor their fallback
	// Err, if not nil, says why the row has no answer: its output is zero and must not be used. Wait is then the group that
	// it lacks, if that group can tell when it is back.
	Err  error
	Wait Availability
}

// Judge speaks for the rows of a Forward. It is asked only about rows whose experts did not all answer, from the
// goroutine of Forward.
type Judge interface {
	Accept(row int) Accept
	Lost(row int, o Outcome)
}

// Lenient is a Block that obeys Input.Judge. Of another one every row waits for its experts.
type Lenient interface {
	Block
	Lenient() bool
}

// Impatient is a Group whose calls need not wait for a restart.
type Impatient interface {
	Group
	// StartNow is Start, but the Pending's Wait returns as soon as no process is ready, with the reason.
	StartNow(ctx context.Context, call *expert.Call) expert.Pending
}

// Availability is a Group that knows whether a call would be answered.
type Availability interface {
	Available() error // nil, or why no process is ready
	Hopeless() error  // why none will be ready soon; nil while waiting makes sense
}

// RefusedError says that the policy may not answer a row without one of its experts. Its text names the expert, for
// operators; Public is what others may read.
type RefusedError struct {
	Kind          Kind
	Layer, Expert int
	Reason        string
	err           error // why the expert is missing
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("layer %d: policy %s refused for expert %d: %s: %v", e.Layer, e.Kind, e.Expert, e.Reason, e.err)
}

// Unwrap is the reason why the expert is missing.
func (e *RefusedError) Unwrap() error { return e.err }

// Public says it without naming the expert, which would tell of the prompt.
func (e *RefusedError) Public() string {
	return "a part of the model is unavailable, and the policy " + e.Kind.String() + " refuses this answer without it: " + e.Reason
}

// Degrade sets the policies, one for each group; groups that only stand in for others have the zero one. It is called
// before the first Forward, if at all.
func (l *Layer) Degrade(policies []Policy) error {
	if len(policies) != len(l.groups) {
		return fmt.Errorf("%d policies for %d expert groups: %w", len(policies), len(l.groups), sdk.ErrInvalid)
	}
	for g, p := range policies {
		if p.Kind == Fallback && (p.Fallback < 0 || p.Fallback >= len(l.groups) || p.Fallback == g) {
			return fmt.Errorf("expert group %d: fallback group %d of %d: %w", g, p.Fallback, len(l.groups), sdk.ErrInvalid)
		}
		for from, to := range p.Substitutes {
			if from < 0 || from >= l.experts || to < 0 || to >= l.experts || from == to {
				return fmt.Errorf("expert group %d: expert %d can't stand in for expert %d of %d: %w", g, to, from, l.experts, sdk.ErrInvalid)
			}
		}
		if p.Kind != Strict {
			l.policies = policies
		}
	}
	return nil
}

// Lenient implements the interface of that name.
func (l *Layer) Lenient() bool { return l.policies != nil }

var _ Lenient = (*Layer)(nil)
