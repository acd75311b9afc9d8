package grammar

import (
	"encoding/binary"
	"fmt"
	"regexp/syntax"
	"slices"
	"unicode"

	"github.com/pimoe/pimoe/sdk"
)

// search is the automaton of the texts in which an expression is found, as JSON Schema has it.
func search(expr string) (*dfa, error) { return compileRegex("(?s:.*)(?:" + expr + ")(?s:.*)") }

// nfa is a program whose characters are cut into ranges of bytes.
type nfa struct {
	prog   *syntax.Prog
	reads  [][][]byteRange   // of each instruction: the characters that it takes
	middle map[string]uint32 // within a character: the ranges that follow, and where they lead
	ranges [][]byteRange     // of the middle states
	target []uint32
	sets   map[string][]uint32 // closures of states, by their key
}

type byteRange struct{ lo, hi byte }

// compileRegex builds the automaton of an expression over UTF-8.
func compileRegex(expr string) (*dfa, error) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, sdk.ErrInvalid)
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, sdk.ErrInvalid)
	}
	if len(prog.Inst) > maxDFA {
		return nil, fmt.Errorf("more than %d steps: %w", maxDFA, sdk.ErrUnsupported)
	}
	for _, in := range prog.Inst {
		if in.Op == syntax.InstEmptyWidth && syntax.EmptyOp(in.Arg)&^(syntax.EmptyBeginText|syntax.EmptyEndText) != 0 {
			return nil, fmt.Errorf("\\b, \\B and multi-line ^ and $ can't be compiled: %w", sdk.ErrUnsupported)
		}
	}
	n := &nfa{prog: prog, middle: map[string]uint32{}, sets: map[string][]uint32{}}
	for i := range prog.Inst {
		var seqs [][]byteRange
		for _, r := range runeRanges(&prog.Inst[i]) {
			seqs = append(seqs, utf8Ranges(r[0], r[1])...)
		}
		n.reads = append(n.reads, seqs)
	}
	start := n.key(n.close(nil, uint32(prog.Start), true, false))
	return explore(start, n.step, n.accepts)
}

// close adds what is reached from pc without reading. Ends of text wait in the set.
func (n *nfa) close(set []uint32, pc uint32, start, end bool) []uint32 {
	if slices.Contains(set, pc) {
		return set
	}
	set = append(set, pc)
	if int(pc) >= len(n.prog.Inst) {
		return set
	}
	switch in := &n.prog.Inst[pc]; in.Op {
	case syntax.InstAlt, syntax.InstAltMatch:
		set = n.close(set, in.Out, start, end)
		set = n.close(set, in.Arg, start, end)
	case syntax.InstCapture, syntax.InstNop:
		set = n.close(set, in.Out, start, end)
	case syntax.InstEmptyWidth:
		op := syntax.EmptyOp(in.Arg)
		if (op&syntax.EmptyBeginText == 0 || start) && (op&syntax.EmptyEndText == 0 || end) {
			set = n.close(set, in.Out, start, end)
		}
	}
	return set
}

// key names a set by the states of it that read or wait; all others are implied.
func (n *nfa) key(set []uint32) string {
	var keep []uint32
	for _, pc := range set {
		if int(pc) >= len(n.prog.Inst) {
			keep = append(keep, pc)
			continue
		}
		switch n.prog.Inst[pc].Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL, syntax.InstMatch, syntax.InstEmptyWidth:
			keep = append(keep, pc)
		}
	}
	slices.Sort(keep)
	var b []byte
	for _, pc := range keep {
		b = binary.LittleEndian.AppendUint32(b, pc)
	}
	n.sets[string(b)] = keep
	return string(b)
}

// step reads a byte.
func (n *nfa) step(key string, b byte) (string, bool) {
	var out []uint32
	for _, pc := range n.sets[key] {
		if i := int(pc) - len(n.prog.Inst); i >= 0 {
			if r := n.ranges[i][0]; r.lo <= b && b <= r.hi {
				out = n.follow(out, n.ranges[i][1:], n.target[i])
			}
			continue
		}
		for _, seq := range n.reads[pc] {
			if seq[0].lo <= b && b <= seq[0].hi {
				out = n.follow(out, seq[1:], n.prog.Inst[pc].Out)
			}
		}
	}
	if len(out) == 0 {
		return "", false
	}
	return n.key(out), true
}

// follow enters the rest of a character, or what comes behind it.
func (n *nfa) follow(set []uint32, rest []byteRange, target uint32) []uint32 {
	if len(rest) == 0 {
		return n.close(set, target, false, false)
	}
	key := fmt.Sprint(rest, target)
	id, ok := n.middle[key]
	if !ok {
		id = uint32(len(n.prog.Inst) + len(n.ranges))
		n.middle[key] = id
		n.ranges, n.target = append(n.ranges, rest), append(n.target, target)
	}
	return n.close(set, id, false, false)
}

// accepts reports whether the text may end here.
func (n *nfa) accepts(key string) bool {
	var set []uint32
	for _, pc := range n.sets[key] {
		set = n.close(set, pc, false, true)
	}
	return slices.ContainsFunc(set, func(pc uint32) bool {
		return int(pc) < len(n.prog.Inst) && n.prog.Inst[pc].Op == syntax.InstMatch
	})
}

// runeRanges are the characters that an instruction reads.
func runeRanges(in *syntax.Inst) [][2]rune {
	switch in.Op {
	case syntax.InstRuneAny:
		return [][2]rune{{0, unicode.MaxRune}}
	case syntax.InstRuneAnyNotNL:
		return [][2]rune{{0, '\n' - 1}, {'\n' + 1, unicode.MaxRune}}
	case syntax.InstRune, syntax.InstRune1:
	default:
		return nil
	}
	if len(in.Rune) == 1 {
		out := [][2]rune{{in.Rune[0], in.Rune[0]}}
		if syntax.Flags(in.Arg)&syntax.FoldCase != 0 {
			for r := unicode.SimpleFold(in.Rune[0]); r != in.Rune[0]; r = unicode.SimpleFold(r) {
				out = append(out, [2]rune{r, r})
			}
		}
		return out
	}
	var out [][2]rune
	for i := 0; i+1 < len(in.Rune); i += 2 {
		out = append(out, [2]rune{in.Rune[i], in.Rune[i+1]})
	}
	return out
}

// utf8Ranges cuts a range of characters into sequences of ranges of bytes. Surrogates have no bytes.
func utf8Ranges(lo, hi rune) [][]byteRange {
	if lo > hi {
		return nil
	}
	cut := func(at rune) [][]byteRange { return append(utf8Ranges(lo, at), utf8Ranges(at+1, hi)...) }
	if lo <= 0xdfff && hi >= 0xd800 {
		return append(utf8Ranges(lo, 0xd7ff), utf8Ranges(0xe000, hi)...)
	}
	for _, most := range []rune{0x7f, 0x7ff, 0xffff} {
		if lo <= most && most < hi {
			return cut(most)
		}
	}
	if hi <= 0x7f {
		return [][]byteRange{{{byte(lo), byte(hi)}}}
	}
	for i := 1; i < 4; i++ {
		m := rune(1)<<(6*i) - 1
		if lo&^m == hi&^m {
			continue
		}
		if lo&m != 0 {
			return cut(lo | m)
		}
		if hi&m != m {
			return cut(hi&^m - 1)
		}
	}
	a, b := []byte(string(lo)), []byte(string(hi))
	seq := make([]byteRange, len(a))
	for i := range a {
		seq[i] = byteRange{a[i], b[i]}
	}
	return [][]byteRange{seq}
}
