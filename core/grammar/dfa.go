package grammar

import (
	"fmt"

	"github.com/pimoe/pimoe/sdk"
)

// dfa is a deterministic automaton over bytes whose start is state 0. Every state leads to an accepting one.
type dfa struct {
	class  [256]uint8
	width  int
	next   []int32 // state*width + class; dead = none
	accept []bool
	cost   []int32 // single-byte tokens to the nearest accepting state, or fewer tokens where they are longer; by price
	exact  string  // the only word, if it was made of one
}

const dead = int32(-1)

func (d *dfa) step(q int32, b byte) int32 { return d.next[int(q)*d.width+int(d.class[b])] }

// leads reports whether any byte follows in state q.
func (d *dfa) leads(q int32) bool {
	for _, n := range d.next[int(q)*d.width : int(q+1)*d.width] {
		if n != dead {
			return true
		}
	}
	return false
}

// empty reports whether no word is accepted.
func (d *dfa) empty() bool { return len(d.accept) == 0 }

// run is the state after a word from q, or dead.
func (d *dfa) run(q int32, word string) int32 {
	for i := 0; i < len(word) && q != dead; i++ {
		q = d.step(q, word[i])
	}
	return q
}

func (d *dfa) matches(word string) bool {
	if d.empty() {
		return false
	}
	q := d.run(0, word)
	return q != dead && d.accept[q]
}

// explore builds the automaton of what can be reached from a start.
func explore[S comparable](start S, step func(S, byte) (S, bool), accept func(S) bool) (*dfa, error) {
	ids, list := map[S]int32{start: 0}, []S{start}
	var rows []int32
	var ends []bool
	for i := 0; i < len(list); i++ {
		s := list[i]
		ends = append(ends, accept(s))
		for b := range 256 {
			t, ok := step(s, byte(b))
			if !ok {
				rows = append(rows, dead)
				continue
			}
			id, known := ids[t]
			if !known {
				if len(list) >= maxDFA {
					return nil, fmt.Errorf("more than %d states: %w", maxDFA, sdk.ErrUnsupported)
				}
				id = int32(len(list))
				ids[t], list = id, append(list, t)
			}
			rows = append(rows, id)
		}
	}
	return trim(rows, ends), nil
}

// trim drops the states from which nothing is accepted and joins the bytes that all states treat alike.
func trim(rows []int32, ends []bool) *dfa {
	n := len(ends)
	back := make([][]int32, n)
	for q := range n {
		last := dead
		for _, t := range rows[q*256 : q*256+256] {
			if t != dead && t != last {
				back[t] = append(back[t], int32(q))
				last = t
			}
		}
	}
	live := make([]bool, n)
	var todo []int32
	for q, end := range ends {
		if end {
			live[q] = true
			todo = append(todo, int32(q))
		}
	}
	for len(todo) > 0 {
		q := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, p := range back[q] {
			if !live[p] {
				live[p] = true
				todo = append(todo, p)
			}
		}
	}
	d := &dfa{width: 1}
	if !live[0] {
		return d
	}
	id := make([]int32, n)
	for q := range n {
		if id[q] = dead; live[q] {
			id[q] = int32(len(d.accept))
			d.accept = append(d.accept, ends[q])
		}
	}
	column := func(b int) string {
		key := make([]byte, 0, 4*len(d.accept))
		for q := range n {
			if live[q] {
				t := rows[q*256+b]
				if t != dead {
					t = id[t]
				}
				key = append(key, byte(t), byte(t>>8), byte(t>>16), byte(t>>24))
			}
		}
		return string(key)
	}
	classes := map[string]uint8{}
	var reps []int
	for b := range 256 {
		key := column(b)
		c, ok := classes[key]
		if !ok {
			c = uint8(len(reps))
			classes[key] = c
			reps = append(reps, b)
		}
		d.class[b] = c
	}
	d.width = len(reps)
	for q := range n {
		if live[q] {
			for _, b := range reps {
				t := rows[q*256+b]
				if t != dead {
					t = id[t]
				}
				d.next = append(d.next, t)
			}
		}
	}
	return d
}

// word is the automaton of one word.
func word(w string) *dfa {
	d, _ := explore(0, func(i int, b byte) (int, bool) { return i + 1, i < len(w) && w[i] == b }, func(i int) bool { return i == len(w) })
	d.exact = w
	return d
}

// words is the automaton of a set of words.
func words(list []string) (*dfa, error) {
	all := &dfa{width: 1}
	for _, w := range list {
		var err error
		if all, err = union(all, word(w)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// combine is the product of two automata.
func combine(a, b *dfa, keep func(inA, inB bool) bool, needA, needB bool) (*dfa, error) {
	type pair [2]int32
	start := pair{0, 0}
	if a.empty() {
		start[0] = dead
	}
	if b.empty() {
		start[1] = dead
	}
	at := func(d *dfa, q int32, c byte) int32 {
		if q == dead {
			return dead
		}
		return d.step(q, c)
	}
	return explore(start, func(s pair, c byte) (pair, bool) {
		t := pair{at(a, s[0], c), at(b, s[1], c)}
		ok := (t[0] != dead || !needA) && (t[1] != dead || !needB) && (t[0] != dead || t[1] != dead)
		return t, ok
	}, func(s pair) bool { return keep(s[0] != dead && a.accept[s[0]], s[1] != dead && b.accept[s[1]]) })
}

func intersect(a, b *dfa) (*dfa, error) {
	return combine(a, b, func(x, y bool) bool { return x && y }, true, true)
}

func minus(a, b *dfa) (*dfa, error) {
	return combine(a, b, func(x, y bool) bool { return x && !y }, true, false)
}

func union(a, b *dfa) (*dfa, error) {
	return combine(a, b, func(x, y bool) bool { return x || y }, false, false)
}

// price finds the cost of each state: tokens of one byte each, which the vocabulary must have.
func (d *dfa) price(v *Vocabulary) {
	if d.cost != nil {
		return
	}
	d.cost = make([]int32, len(d.accept))
	if d.exact != "" {
		copy(d.cost, v.segments(d.exact)) // state i of a word's automaton is its i-th byte
		return
	}
	for q, end := range d.accept {
		if d.cost[q] = inf; end {
			d.cost[q] = 0
		}
	}
	usable := make([]bool, d.width)
	for b := range 256 {
		if v.single[b] {
			usable[d.class[b]] = true
		}
	}
	for changed := true; changed; { // from the last state on: most automata count upwards
		changed = false
		for q := len(d.accept) - 1; q >= 0; q-- {
			for c, t := range d.next[q*d.width : (q+1)*d.width] {
				if t != dead && usable[c] && d.cost[t]+1 < d.cost[q] {
					d.cost[q] = d.cost[t] + 1
					changed = true
				}
			}
		}
	}
}

// plenty is what counts stop at: more items or keys than a unique array or object may ask for.
const plenty = 1 << 20

// counts is how many words each state accepts, at most plenty.
func (d *dfa) counts() []int32 {
	n := make([]int32, len(d.accept))
	loop := d.cyclic()
	var count func(q int32) int32
	done := make([]bool, len(d.accept))
	count = func(q int32) int32 {
		if loop[q] {
			return plenty
		}
		if done[q] {
			return n[q]
		}
		total := int32(0)
		if d.accept[q] {
			total = 1
		}
		var size [256]int32
		for b := range 256 {
			size[d.class[b]]++
		}
		for c, t := range d.next[int(q)*d.width : int(q+1)*d.width] {
			if t != dead {
				total = int32(min(int64(total)+int64(size[c])*int64(count(t)), plenty))
			}
		}
		done[q], n[q] = true, total
		return total
	}
	for q := range n {
		n[q] = count(int32(q))
	}
	return n
}

// cyclic says of each state whether a loop can be reached from it: it accepts infinitely many words.
func (d *dfa) cyclic() []bool {
	// A state is free of loops when all that follow it are.
	left := make([]int32, len(d.accept))
	back := make([][]int32, len(d.accept))
	var todo []int32
	for q := range d.accept {
		for _, t := range d.next[q*d.width : (q+1)*d.width] {
			if t != dead {
				left[q]++
				back[t] = append(back[t], int32(q))
			}
		}
		if left[q] == 0 {
			todo = append(todo, int32(q))
		}
	}
	loop := make([]bool, len(d.accept))
	for q := range loop {
		loop[q] = true
	}
	for len(todo) > 0 {
		q := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		loop[q] = false
		for _, p := range back[q] {
			if left[p]--; left[p] == 0 {
				todo = append(todo, p)
			}
		}
	}
	return loop
}

// nth is a length within which there are n words of bytes that are tokens; inf if there are never so many.
func (d *dfa) nth(v *Vocabulary, n int32) int32 {
	if d.empty() {
		return inf
	}
	var size [256]int64
	for b := range 256 {
		if v.single[b] {
			size[d.class[b]]++
		}
	}
	at := make([]int64, len(d.accept))
	at[0] = 1
	total := int64(0)
	for length := int32(0); length < 4096; length++ {
		next := make([]int64, len(at))
		alive := false
		for q, k := range at {
			if k == 0 {
				continue
			}
			if d.accept[q] {
				total += k
			}
			for c, t := range d.next[q*d.width : (q+1)*d.width] {
				if t != dead && size[c] > 0 {
					next[t] = min(next[t]+k*size[c], plenty)
					alive = true
				}
			}
		}
		if total >= int64(n) {
			return length
		}
		if !alive {
			return inf
		}
		at = next
	}
	return inf
}
