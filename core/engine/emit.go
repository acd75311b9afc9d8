package engine

import (
	"fmt"
	"slices"
	"time"
)

// delivery is a token on its way to its reader.
type delivery struct {
	s     *sequence
	token Token
	usage Usage
}

// advance takes in what a step computed for a sequence.
func (l *loop) advance(s *sequence, e entry, now time.Time) {
	s.settle()
	s.computed += e.n
	l.work(s, e.n)
	if s.watcher != nil {
		s.watcher.advance(s.computed)
	}
	l.index(s)
	if s.computed < len(s.request.Prompt) {
		return
	}
	if s.last.IsZero() {
		l.promptDone(s)
	}
	if s.most == 0 {
		l.emit(s, Token{Finish: FinishLength})
		return
	}
	for _, d := range s.drawn {
		if d.err != nil {
			l.end(s, fmt.Errorf("%s: %w", s.stream.name, d.err))
		}
		if s.over {
			return
		}
		l.token(s, d, now)
	}
}

// work counts what a step has done for a sequence; what it was not expected to need does not count.
func (l *loop) work(s *sequence, tokens int) {
	n := min(float64(tokens), s.cost-s.worked)
	s.worked += n
	l.worked += n
}

// promptDone counts a prompt whose last token was computed for the first time.
func (l *loop) promptDone(s *sequence) {
	l.stats.PromptTokens += uint64(s.usage.PromptTokens)
	l.stats.CachedTokens += uint64(s.usage.CachedTokens)
	l.meters.prompt.Add(s.usage.PromptTokens)
	l.meters.reused.Add(s.usage.CachedTokens)
}

// token adds a chosen token to a sequence and to its stream.
func (l *loop) token(s *sequence, d drawn, now time.Time) {
	l.clock(s, now)
	t := Token{ID: d.id, Top: d.top}
	if s.request.Logprobs >= 0 {
		t.Logprob = d.logprob
	}
	if !s.request.IgnoreEOS && slices.Contains(l.eos, d.id) {
		t.Finish = FinishStop
	} else {
		t.HasToken = true
		if s.told() == len(s.tokens) { // it was not given
			s.tokens = append(s.tokens, d.id)
		}
		s.said++
		s.usage.CompletionTokens++
		l.stats.CompletionTokens++
		l.meters.completion.Inc()
		switch {
		case d.done || d.whole && s.said >= s.most:
			t.Finish = FinishStop
		case s.said >= s.most:
			t.Finish = FinishLength
		}
	}
	if s.text != nil {
		s.text.fill(&t)
	}
	l.emit(s, t)
}

// clock measures the time to a token.
func (l *loop) clock(s *sequence, now time.Time) {
	if s.last.IsZero() {
		s.usage.FirstToken = now.Sub(s.submitted)
		l.meters.ttft.Update(s.usage.FirstToken.Seconds())
	} else if !s.parked { // the time in which a reader lagged is not ours
		l.meters.inter.Update(now.Sub(s.last).Seconds())
	}
	s.last, s.parked = now, false
}

// emit puts a token into the outbox and ends the sequence with the last one.
func (l *loop) emit(s *sequence, t Token) {
	t.Quality = s.usage.Quality
	l.outbox = append(l.outbox, delivery{s, t, s.usage})
	s.unsent++
	if t.Finish != "" {
		l.meters.finished[string(t.Finish)].Inc()
		l.meters.answers[t.Quality.Status()].Inc()
		l.end(s, nil)
	}
}

// deliver gives the outbox to the readers. The loop does this when the next step is under way, so that they wake up and
// write beside it. Who sees an end sees the figures too.
func (l *loop) deliver() {
	l.publish()
	for i := range l.outbox {
		d := &l.outbox[i]
		d.s.unsent--
		d.s.stream.push(d.token, d.usage)
		*d = delivery{}
	}
	l.outbox = l.outbox[:0]
}

// publish shows the figures to Stats.
func (l *loop) publish() {
	l.stats.Running = len(l.running)
	l.stats.Pages = l.pages
	l.stats.FreePages = l.pool.available()
	l.stats.CachedPages = l.pool.idle
	l.box.publish(l.stats, l.oldest())
}
