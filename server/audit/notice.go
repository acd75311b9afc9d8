package audit

import (
	"context"
	"path/filepath"
	"time"
)

// counted names what Count counts; count is what has come of it in this period.
type counted struct{ action, object string }

type count struct {
	first, last time.Time
	n           uint64 // since the last record of it
	until       time.Time
}

// Note writes a record soon. It never waits for the disk; where that has no room the record waits, and what is too much is
// counted in the first record after it.
func (l *Log) Note(r Record) {
	r.Time = l.o.Now()
	l.queueing.Lock()
	if len(l.queue) < maxQueue {
		l.queue = append(l.queue, r)
	} else {
		l.lost++
	}
	l.queueing.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Count notes what happens often: the first time at once, and then how often it has happened, once a period.
func (l *Log) Count(action, object string) {
	now := l.o.Now()
	l.queueing.Lock()
	c := l.counts[counted{action, object}]
	isFirst := c == nil
	if isFirst {
		c = &count{until: now.Add(l.o.Period)}
		l.counts[counted{action, object}] = c
	} else {
		if c.n == 0 {
			c.first = now
		}
		c.n++
		c.last = now
	}
	l.queueing.Unlock()
	if isFirst {
		l.Note(Record{Actor: Host, Action: action, Object: object, Outcome: Noticed, Details: map[string]any{"count": 1}})
	}
}

// run writes notices, and tries again what failed.
func (l *Log) run(ctx context.Context) {
	defer close(l.done)
	tick := time.NewTicker(l.o.Retry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-tick.C:
			l.summarise(false)
		}
		l.mu.Lock()
		l.judge(l.flush())
		l.mu.Unlock()
	}
}

// summarise notes what was counted, for periods that are over or for all.
func (l *Log) summarise(all bool) {
	now := l.o.Now()
	var over []Record
	l.queueing.Lock()
	for k, c := range l.counts {
		if !all && now.Before(c.until) {
			continue
		}
		if c.n == 0 {
			delete(l.counts, k)
			continue
		}
		over = append(over, Record{Actor: Host, Action: k.action, Object: k.object, Outcome: Noticed, Details: map[string]any{
			"count": c.n, "first": c.first.UTC().Format(time.RFC3339Nano), "last": c.last.UTC().Format(time.RFC3339Nano),
		}})
		c.n, c.until = 0, now.Add(l.o.Period)
	}
	l.queueing.Unlock()
	for _, r := range over {
		l.Note(r)
	}
}

// flush writes the notices that wait, after a time without room a record that says so, and how many found no place. The
// caller holds mu.
func (l *Log) flush() error {
	if l.bad != nil {
		if err := l.account(actionResumed, map[string]any{"why": reason(l.bad)}); err != nil {
			return err
		}
		l.judge(nil)
	}
	for {
		l.queueing.Lock()
		if len(l.queue) == 0 {
			lost := l.lost
			l.queueing.Unlock()
			if lost == 0 {
				return nil
			}
			return l.account(actionLost, map[string]any{})
		}
		r := l.queue[0]
		l.queueing.Unlock()
		if err := l.write(r); err != nil {
			return err
		}
		l.queueing.Lock()
		l.queue = l.queue[1:]
		l.queueing.Unlock()
	}
}

// account records what could not be until now. More may be lost while it is written: that is for the next such record.
func (l *Log) account(action string, details map[string]any) error {
	l.queueing.Lock()
	lost, refused := l.lost, l.refused
	l.queueing.Unlock()
	details["notices_lost"], details["changes_refused"] = lost, refused
	err := l.write(Record{Time: l.o.Now(), Actor: Host, Action: action, Object: filepath.Base(l.path), Outcome: Noticed, Details: details})
	if err != nil {
		return err
	}
	l.queueing.Lock()
	l.lost, l.refused = l.lost-lost, l.refused-refused
	l.queueing.Unlock()
	return nil
}
