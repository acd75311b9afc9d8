package engine

import (
	"context"
	"slices"
	"time"
)

// launchJob starts the first job in the order of fair that may run and whose caller still waits.
func (l *loop) launchJob(may func(*job) bool) bool {
	l.fair.inTurn(l.jobs)
	for i := 0; i < len(l.jobs); {
		j := l.jobs[i]
		ready, err := j.outage.look(l.now(), l.live.patience())
		ready = ready && may(j)
		if e := j.ctx.Err(); e != nil {
			err = e
		}
		if !ready && err == nil {
			i++
			continue
		}
		l.jobs = slices.Delete(l.jobs, i, i+1)
		if err != nil {
			l.answer(j, err)
			continue
		}
		j, release := l.crowd(j)
		ctx, cancel := context.WithCancel(j.ctx)
		var edition uint64
		if l.editions != nil {
			edition, _ = l.editions.Enter()
		}
		l.flight, l.stepped = &flight{job: j, cancel: func() { cancel(); release() }, edition: edition}, false
		l.lift(l.now())
		l.begin()
		l.tasks <- task{ctx: ctx, job: j, edition: edition}
		return true
	}
	return false
}

// crowd joins a job with those that wait behind it and can run in the same calls, up to the tokens of a step, and charges their
// flows.
func (l *loop) crowd(j *job) (*job, context.CancelFunc) {
	l.turn(j)
	parts, rows := []*job{j}, j.input.Rows
	for i := 0; i < len(l.jobs); {
		o := l.jobs[i]
		if !j.joins(o) || rows+o.input.Rows > l.limits.MaxBatchTokens || o.ctx.Err() != nil {
			i++
			continue
		}
		l.turn(o)
		parts, rows = append(parts, o), rows+o.input.Rows
		l.jobs = slices.Delete(l.jobs, i, i+1)
	}
	if len(parts) == 1 {
		return j, func() {}
	}
	return join(parts)
}

// turn charges a job's flow for its first turn. What it repeats counts as worked off once.
func (l *loop) turn(j *job) {
	if j.begun {
		return
	}
	j.begun, j.tag = true, l.fair.start(j.flow, j.cost)
	l.worked += j.cost
	l.box.started(j.caller, j.cost)
}

// disperse ends a joined job: each part has its answer, or runs again by itself, so that nobody fails for another's rows.
func (l *loop) disperse(j *job) {
	if j.err == nil {
		j.split()
	}
	for _, p := range j.parts {
		switch {
		case j.err == nil:
			l.answer(p, nil)
		case l.closed:
			l.answer(p, errStopped)
		default:
			p.alone = true
			l.jobs = append(l.jobs, p)
		}
	}
}

// landJob takes the result of a job. One that lacks an expert waits for it, if that makes sense.
func (l *loop) landJob(f *flight, took time.Duration) {
	j := f.job
	f.cancel()
	l.measure(l.now())
	l.reckonJobs(j.callers(), took)
	if l.editions != nil {
		l.editions.Leave(f.edition)
	}
	switch missing := j.lost.missing; {
	case j.parts != nil:
		l.disperse(j)
		return
	case l.closed && (j.err != nil || missing.Err != nil):
		j.err = errStopped
	case j.err == nil && missing.Err != nil:
		if j.err = j.outage.begin(missing, l.now()); j.err == nil {
			l.jobs = append(l.jobs, j)
			return
		}
	}
	l.answer(j, nil)
}

// answer gives a job back to its caller.
func (l *loop) answer(j *job, err error) {
	if j.err == nil {
		j.err = err
	}
	if j.err == nil {
		l.meters.answers[j.lost.quality.Status()].Inc()
	}
	l.fair.end(j.flow, j.begun, 0, l.now())
	close(j.done)
	l.box.leave(j)
}
