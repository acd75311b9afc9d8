// Package grammar holds a model's answer to a form: it compiles a JSON Schema, a regular expression or a GBNF grammar
// for one vocabulary and says at each step which tokens may come next, so that every answer is valid and complete within
// the tokens that it may have.
//
// core/engine asks a Matcher, one of each request, for masks; server compiles what clients send. A Grammar is a pushdown
// automaton over bytes: nodes (node.go) are pushed as frames (frame.go), terminals are deterministic automata (dfa.go),
// and a state is the set of all stacks that the text so far can mean (state.go). Every frame knows a number of tokens
// that surely completes it, so there are no dead ends, and an answer whose tokens run short is led to its end. Masks are
// cached by the top of the stack (mask.go). A schema becomes nodes by splitting it into cases that have one type each
// (schema.go, cases.go, object.go and so on).
//
// It refuses to know about models, sampling and HTTP, it never guesses what a keyword means that it can't enforce, and it
// bounds what a grammar may cost; those errors are sdk.ErrInvalid or sdk.ErrUnsupported and name the place.
package grammar

import (
	"fmt"
	"sync"

	"github.com/pimoe/pimoe/sdk"
)

// Grammar is a compiled form. It is safe for concurrent use.
type Grammar struct {
	vocab *Vocabulary
	class [256]uint8 // bytes that no terminal tells apart
	width int
	root  *node

	mu     sync.Mutex // guards all below, and what hangs on frames and states
	frames map[frameKey]*frame
	states map[string]*state
	number uint32 // of the next frame
	start  *state
	walk   []*state
}

// The bounds of one grammar. They are far above what people write and keep a hostile one within a second and some
// megabytes.
const (
	maxSource  = 256 << 10 // bytes of a schema or grammar
	maxNodes   = 50_000
	maxDFA     = 20_000  // states of one terminal
	maxStates  = 8192    // cached states; beyond, the cache starts anew
	maxFrames  = 100_000 // the same for frames
	maxConfigs = 256     // stacks of one state: the cheapest are kept
)

// inf is a cost that nothing completes.
const inf = int32(1) << 28

func add(a, b int32) int32 { return min(a+b, inf) }

func times(n, cost int32) int32 {
	if n <= 0 || cost == 0 {
		return 0
	}
	return int32(min(int64(n)*int64(cost), int64(inf)))
}

// finish makes a grammar of its root: it finds what each node costs and refuses a form that nothing has.
func finish(v *Vocabulary, root *node, all []*node) (*Grammar, error) {
	if err := settle(v, all); err != nil {
		return nil, err
	}
	if root.cost >= inf {
		return nil, fmt.Errorf("no text has this form: %w", sdk.ErrInvalid)
	}
	g := &Grammar{vocab: v, root: root}
	g.classify(all)
	g.flush()
	g.start = g.intern(g.enter(nil, root, nil, map[*frame]bool{}))
	return g, nil
}

// classify finds the bytes that all terminals treat alike.
func (g *Grammar) classify(all []*node) {
	seen := map[*dfa]bool{}
	g.width = 1
	for _, n := range all {
		if n.kind != terminal || seen[n.dfa] || n.cost >= inf && n.dfa.cost[0] >= inf {
			continue
		}
		seen[n.dfa] = true
		pairs := map[[2]uint8]uint8{}
		for b := range 256 {
			key := [2]uint8{g.class[b], n.dfa.class[b]}
			c, ok := pairs[key]
			if !ok {
				c = uint8(len(pairs))
				pairs[key] = c
			}
			g.class[b] = c
		}
		g.width = len(pairs)
	}
}

// Least is a number of tokens that surely suffices for a whole text.
func (g *Grammar) Least() int { return int(g.root.cost) }

// flush empties the caches. What matchers still hold stays valid.
func (g *Grammar) flush() {
	g.frames, g.states = map[frameKey]*frame{}, map[string]*state{}
}
