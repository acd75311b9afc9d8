package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/google/uuid"

	"github.com/pimoe/pimoe/server/durable"
)

const (
	sweepEvery = time.Minute // retention is hours
	retryWrite = time.Second // between attempts to write an outcome on a disk that is full
	maxResult  = 32 << 20    // bytes: the largest request's tensors, as numbers with all their digits
)

// load reads the index. What was running when the former host ended is queued again, or has failed if that host died too
// often with it.
func (j *Jobs) load(ctx context.Context) error {
	if err := j.DB.Ready(ctx); err != nil {
		return err
	}
	all, interrupted := map[place]Job{}, 0
	err := j.DB.Update(ctx, func(tx *durable.Tx) error {
		clear(all)
		interrupted = 0
		if err := tx.Each(jobBucket, nil, func(at, record []byte) (bool, error) {
			job, err := parseJob(record)
			if err != nil {
				return false, err
			}
			p, err := placeOf(at)
			all[p] = job
			return true, err
		}); err != nil {
			return err
		}
		for p, job := range all {
			if job.State != Running {
				continue
			}
			interrupted++
			job.Strikes++
			if job.Strikes < j.Limits.MaxAttempts {
				job.State = Queued
			} else {
				job.State, job.Failure = Failed, &Failure{Status: http.StatusServiceUnavailable, Code: "interrupted", Message: fmt.Sprintf("the host ended during each of %d attempts", job.Attempts)}
				j.meters.over(job.Kind, Failed)
			}
			if err := j.close(tx, p.key(), &job); err != nil {
				return err
			}
			all[p] = job
		}
		return nil
	})
	if err != nil {
		return err
	}
	j.mu.Lock()
	for p, job := range all {
		j.index.put(p, job)
	}
	j.mu.Unlock()
	if len(all) > 0 {
		j.Log.Info("jobs of before", "jobs", len(all), "interrupted", interrupted)
	}
	return nil
}

// placeOf reads what place.key writes.
func placeOf(at []byte) (place, error) {
	tenant, id, ok := bytes.Cut(at, []byte{0})
	if !ok || len(id) != len(uuid.UUID{}) {
		return place{}, fmt.Errorf("a job's key of %d bytes has another form", len(at))
	}
	return place{string(tenant), uuid.UUID(id)}, nil
}

// close writes a job. The request of one that is over is removed: nobody needs it again.
func (j *Jobs) close(tx *durable.Tx, at []byte, job *Job) error {
	if job.State.Over() {
		job.Finished, job.RequestBytes = j.Now().UTC(), 0
		if err := tx.Delete(requestBucket, at); err != nil {
			return err
		}
	}
	return writeJob(tx, at, *job)
}

// schedule starts jobs until ctx ends, and removes those whose time is up.
func (j *Jobs) schedule(ctx context.Context) {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	j.Sweep(ctx)
	for {
		wait := j.startAll()
		if wait == 0 {
			wait = sweepEvery
		}
		later := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-j.wake:
		case <-later.C:
		case <-sweep.C:
			j.Sweep(ctx)
		}
		later.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// startAll starts as many jobs as may run at once, and tells how long until one that is put off may start.
func (j *Jobs) startAll() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	for !j.stopping && len(j.runs) < j.Limits.Concurrency {
		at, ok, wait := j.index.next(j.Now())
		if !ok {
			return wait
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		r := &run{cancel}
		j.runs[at] = r
		t := j.index.tenants[at.tenant]
		e := t.jobs[at]
		e.state = Running
		t.change(&j.index, at, e)
		j.working.Go(func() {
			j.attempt(ctx, at, r)
			cancel(nil)
			j.mu.Lock()
			j.leave(at, r)
			j.mu.Unlock()
			j.rouse()
		})
	}
	return 0
}

// leave takes a run out of those under way; it needs mu. A job that is queued again may have begun its next one.
func (j *Jobs) leave(at place, r *run) {
	if j.runs[at] == r {
		delete(j.runs, at)
	}
}

// attempt runs a job once.
func (j *Jobs) attempt(ctx context.Context, at place, r *run) {
	job, request, err := j.begin(at)
	if err != nil {
		if !errors.Is(err, errNoJob) && !errors.Is(err, ErrOver) { // it was cancelled meanwhile
			j.Log.Warn("begin a job", "job", nameOf(at.id), "error", err.Error())
			j.putOff(at)
		}
		return
	}
	j.meters.began(job)
	limited, cancel := context.WithTimeout(ctx, j.Limits.Timeout)
	began := time.Now()
	result, err := j.work(limited, job, request)
	cancel()
	if cause := context.Cause(ctx); errors.Is(cause, errCancelled) {
		return // the database says so already
	}
	j.finish(ctx, at, r, job.Attempts, result, err)
	j.meters.took(job.Kind, time.Since(began))
}

// begin notes the attempt before anything of it happens.
func (j *Jobs) begin(at place) (job Job, request []byte, err error) {
	err = j.DB.Update(context.Background(), func(tx *durable.Tx) error {
		if job, err = readJob(tx, at.key()); err != nil {
			return err
		}
		if job.State != Queued {
			return ErrOver
		}
		job.State, job.Started = Running, j.Now().UTC()
		job.Attempts++
		if request, err = tx.Get(requestBucket, at.key()); err != nil {
			return err
		}
		return writeJob(tx, at.key(), job)
	})
	return job, request, err
}

// putOff gives a job that could not begin another try a little later.
func (j *Jobs) putOff(at place) {
	j.mu.Lock()
	defer j.mu.Unlock()
	t := j.index.tenants[at.tenant]
	if t == nil {
		return
	}
	if e, ok := t.jobs[at]; ok && e.state == Running {
		e.state, e.notBefore = Queued, j.Now().Add(retryWrite)
		t.change(&j.index, at, e)
	}
}

// work calls the Work. A panic ends this job alone.
func (j *Jobs) work(ctx context.Context, job Job, request []byte) (r Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return j.Work(ctx, job, request)
}

// finish writes what came of an attempt: a result, a failure, or that there will be another attempt. It goes on trying to
// write until the host stops: then the job is still running in the database, and the next host runs it again.
func (j *Jobs) finish(ctx context.Context, at place, r *run, attempt int, result Result, failure error) {
	for {
		err := j.conclude(ctx, at, r, attempt, result, failure)
		if err == nil || errors.Is(err, errNoJob) || errors.Is(err, ErrOver) {
			return // or it was cancelled or deleted meanwhile: there is no second outcome
		}
		j.Log.Error("the outcome of a job can't be written", "job", nameOf(at.id), "error", err.Error())
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryWrite):
		}
	}
}

// conclude is one transaction: the result and that the job is done, or neither.
func (j *Jobs) conclude(ctx context.Context, at place, r *run, attempt int, result Result, failure error) error {
	record, err := result.encode()
	if err != nil {
		return err
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	if failure == nil {
		failure = j.room(at, int64(len(record)))
	}
	var job Job
	if err := j.DB.Update(context.Background(), func(tx *durable.Tx) error {
		if job, err = readJob(tx, at.key()); err != nil {
			return err
		}
		if job.State != Running || job.Attempts != attempt {
			return ErrOver
		}
		if failure != nil {
			j.judge(ctx, &job, failure)
			return j.close(tx, at.key(), &job)
		}
		job.State, job.ResultBytes = Done, int64(len(record))
		return errors.Join(tx.Put(resultBucket, at.key(), record), j.close(tx, at.key(), &job))
	}); err != nil {
		return err
	}
	j.mu.Lock()
	j.index.put(at, job)
	j.leave(at, r)
	j.mu.Unlock()
	if job.State.Over() {
		j.meters.over(job.Kind, job.State)
	}
	return nil
}

// room refuses a result that the limits have no room for.
func (j *Jobs) room(at place, size int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, used := j.index.use(at.tenant); size <= maxResult && used+size <= megabytes(j.Limits.MaxMBPerTenant) && j.index.bytes+size <= megabytes(j.Limits.MaxMB) {
		return nil
	}
	return &Failure{Status: http.StatusRequestEntityTooLarge, Code: "result_too_large", Message: fmt.Sprintf("the result of %d bytes is more than the limits leave room for", size)}
}

// judge says what an attempt that failed makes of a job.
func (j *Jobs) judge(ctx context.Context, job *Job, failure error) {
	j.mu.Lock()
	stopping := j.stopping
	j.mu.Unlock()
	if errors.Is(context.Cause(ctx), errPutBack) {
		job.State = Queued // no fault of its own
		return
	}
	var f *Failure
	if !errors.As(failure, &f) {
		j.Log.Error("a job has failed", "job", job.ID, "error", failure.Error())
		f = &Failure{Status: http.StatusInternalServerError, Code: "internal_error", Message: "an internal error; its cause is in the server's log under this job's id"}
	}
	if f.Passing && stopping {
		job.State = Queued // the host stops, and takes no new work
		return
	}
	if f.Passing {
		job.Strikes++
	}
	if f.Passing && job.Strikes < j.Limits.MaxAttempts {
		job.State, job.NotBefore = Queued, j.Now().Add(backoff(j.Backoff, job.Strikes)).UTC()
		return
	}
	job.State, job.Failure = Failed, f
}

// longestBackoff is short beside the time that jobs are kept, and long enough for whatever passes by itself.
const longestBackoff = 10 * time.Minute

// backoff is how long a job waits after so many strikes: first, doubled for each further one.
func backoff(first time.Duration, strikes int) time.Duration {
	wait := first
	for range strikes - 1 {
		if wait *= 2; wait > longestBackoff {
			return longestBackoff
		}
	}
	return wait
}

// Sweep removes the jobs whose time is up and ends those that waited for too long.
func (j *Jobs) Sweep(ctx context.Context) {
	j.mu.Lock()
	over, waiting := j.index.outlived(j.Now(), j.Limits.Retention)
	j.mu.Unlock()
	for _, p := range over {
		if err := j.Delete(ctx, p.tenant, nameOf(p.id)); err != nil && !errors.Is(err, errNoJob) {
			j.Log.Warn("remove an old job", "job", nameOf(p.id), "error", err.Error())
		}
	}
	for _, p := range waiting {
		_, err := j.end(ctx, p.tenant, nameOf(p.id), func(tx *durable.Tx, at []byte, job *Job) error {
			if job.State != Queued {
				return ErrOver
			}
			job.State, job.Failure = Failed, &Failure{Status: http.StatusGatewayTimeout, Code: "expired", Message: "the job did not get its turn within jobs.retention"}
			return j.close(tx, at, job)
		}, false)
		if err != nil && !errors.Is(err, errNoJob) && !errors.Is(err, ErrOver) {
			j.Log.Warn("end an old job", "job", nameOf(p.id), "error", err.Error())
		}
	}
}
