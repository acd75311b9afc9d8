// Package load keeps a server busy with completions, streamed and whole, greedy and drawn with a seed, and notes what came
// of each in a ledger and when its tokens came. What a right answer is, it does not know: another program judges.
//
// The command chaos uses it, also to ask the oracle. It refuses to repeat a request: each is one line of evidence.
package load

import (
	"math/rand/v2"
	"strings"
)

// Question is a request with exactly one right answer.
type Question struct {
	Prompt      string
	Max         int // tokens to write
	Temperature float64
	TopP        float64
	Seed        uint64
	Logprobs    bool // the answer also holds the logarithm of every token's probability: one wrong bit shows
}

// Short makes questions short: their answers have at most so many tokens, and their prompts one sentence.
func Short(qs []Question, tokens int) []Question {
	for i := range qs {
		q := &qs[i]
		q.Max = min(q.Max, tokens)
		first, _, _ := strings.Cut(q.Prompt, ". ")
		q.Prompt = first + ". Then the"
	}
	return qs
}

// Questions draws n questions from a seed, none of which begins like another.
func Questions(seed uint64, n int) []Question {
	rng := rand.New(rand.NewPCG(seed, questionStream))
	out := make([]Question, n)
	for i := range out {
		q := Question{Prompt: prompt(rng), Max: 8 + rng.IntN(57), TopP: 1, Logprobs: rng.IntN(2) == 0}
		if rng.IntN(2) == 0 {
			q.Temperature, q.TopP, q.Seed = 0.8, 0.95, uint64(rng.Uint32())
		}
		out[i] = q
	}
	return out
}

// questionStream and clientStream keep their draws apart from those of the faults.
const (
	questionStream = 1<<33 + iota
	clientStream
)

// The words of prompts: a small model has seen them, so that it does not end in one loop whatever it is asked.
var (
	who   = strings.Fields("fox bear girl boy king cat dog bird frog mouse queen rabbit duck lion dragon teacher")
	which = strings.Fields("little big old happy sad brave red blue clever sleepy kind lonely funny hungry shy tiny")
	what  = strings.Fields("lamp hat boat ball tree garden cake house star song river box stone book flower bell")
	did   = strings.Fields("found lost saw made wanted hid painted broke shared carried dropped cleaned")
)

// prompt is one to six sentences, so that prompts have 10 to 80 tokens.
func prompt(rng *rand.Rand) string {
	pick := func(words []string) string { return words[rng.IntN(len(words))] }
	var b strings.Builder
	for range 1 + rng.IntN(6) {
		b.WriteString("The " + pick(which) + " " + pick(who) + " " + pick(did) + " a " + pick(which) + " " + pick(what) + ". ")
	}
	return b.String() + "Then the " + pick(who)
}
