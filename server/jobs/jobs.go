// Package jobs runs requests later: they are written down, wait their turn, and their results are kept for a while. A job
// survives restarts and the death of the host: one that was running is run again, a bounded number of times, so that it may
// be computed more than once, but it never has two results, and none is lost.
//
// server has the routes and says how a job is computed; server/durable has the file. The package refuses to take a job that
// is not on the disk, to show one tenant another's, more or larger jobs than the limits allow, and to compute anything.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/durable"
)

// Work computes a job. An error that is a *Failure is for the owner; of any other the owner learns nothing but that there was
// one. It must end soon after its context.
type Work func(ctx context.Context, j Job, request []byte) (Result, error)

// Options are what Jobs need.
type Options struct {
	DB      *durable.DB
	Limits  config.Jobs
	Work    Work
	Log     *slog.Logger
	Metrics *metrics.Registry
	Now     func() time.Time
	Backoff time.Duration // before the second attempt, doubled for each further one up to 10 min; 0 = 1 s
}

// ErrFull says that a tenant has as many jobs as the limits allow.
var ErrFull = fmt.Errorf("as many jobs as the limits allow are kept: fetch results and delete jobs, or wait for the oldest to end: %w", sdk.ErrOverloaded)

// ErrOver says that a job can't be changed any more.
var ErrOver = fmt.Errorf("the job is over: %w", sdk.ErrInvalid)

// ErrNotOver says that a job has no result yet.
var ErrNotOver = fmt.Errorf("the job is not over: %w", sdk.ErrUnavailable)

// Jobs are the jobs of all tenants. Life: New, Start, Stop. The order of locks is writing, the database's, mu.
type Jobs struct {
	Options
	loaded chan struct{} // closed once the index is that of the database, or failed is set
	failed error         // why it never will be
	wake   chan struct{} // one signal that there may be something to start

	writing  sync.Mutex // held while a record changes in the database and then in the index, so that both keep one order
	mu       sync.Mutex // guards all below
	index    index
	runs     map[place]*run
	stopping bool

	cancel  context.CancelFunc // ends the scheduler
	working sync.WaitGroup     // the scheduler and the runs
	meters  meters
}

// place is which job of which tenant.
type place struct {
	tenant string
	id     uuid.UUID
}

func (p place) key() []byte { return key(p.tenant, p.id) }

// run is an attempt under way.
type run struct {
	cancel context.CancelCauseFunc
}

// Why a run ends before its work has.
var (
	errCancelled = errors.New("the job was cancelled")
	errPutBack   = errors.New("the host stops, another one will run the job")
)

// New makes Jobs that take none before Start.
func New(o Options) *Jobs {
	if o.Backoff == 0 {
		o.Backoff = time.Second
	}
	j := &Jobs{Options: o, loaded: make(chan struct{}), wake: make(chan struct{}, 1), index: newIndex(), runs: map[place]*run{}}
	j.meters = newMeters(j, o.Metrics)
	return j
}

// Start reads the database, as soon as this host has it, and runs what waits there.
func (j *Jobs) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	j.mu.Lock()
	j.cancel = cancel
	j.mu.Unlock()
	j.working.Go(func() {
		if err := j.load(ctx); err != nil {
			if ctx.Err() == nil {
				j.Log.Error("the jobs can't be read: none is taken or run", "error", err.Error())
				j.failed = fmt.Errorf("the jobs can't be read: %w", sdk.ErrUnavailable)
				close(j.loaded)
			}
			return
		}
		close(j.loaded)
		j.schedule(ctx)
	})
}

// Pause starts no further job. Those that run go on, and new ones are taken.
func (j *Jobs) Pause() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stopping = true
}

// Stop ends the running of jobs: those under way go on until ctx ends and are then put back to be run by the next host. It
// returns when none runs.
func (j *Jobs) Stop(ctx context.Context) {
	j.Pause()
	j.mu.Lock()
	cancel := j.cancel
	j.mu.Unlock()
	if cancel == nil {
		return // never started
	}
	cancel()
	ended := make(chan struct{})
	go func() { // ends with the runs, for which Stop waits
		j.working.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	j.mu.Lock()
	for _, r := range j.runs {
		r.cancel(errPutBack)
	}
	j.mu.Unlock()
	<-ended
}

// ready waits until the index is there, as long as the database would have a caller wait.
func (j *Jobs) ready(ctx context.Context) error {
	select {
	case <-j.loaded:
		return j.failed
	default:
	}
	if err := j.DB.View(ctx, func(*durable.Tx) error { return nil }); err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, time.Second) // reading ten thousand records takes a tenth of it
	defer cancel()
	select {
	case <-j.loaded:
		return j.failed
	case <-patient.Done():
		return fmt.Errorf("the jobs are being read: %w", sdk.ErrUnavailable)
	}
}

// Asked is a request for a job.
type Asked struct {
	Kind    string
	Owner   access.Principal
	Accept  string
	Request []byte
	// Also writes more in the transaction that makes the job; nil = nothing. So both are there, or none.
	Also func(tx *durable.Tx, made Job) error
}

// Create takes a job: it is on the disk when Create returns.
func (j *Jobs) Create(ctx context.Context, a Asked) (Job, error) {
	if err := j.ready(ctx); err != nil {
		return Job{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Job{}, fmt.Errorf("make a job's id: %w", err)
	}
	at := place{a.Owner.Tenant, id}
	made := Job{ID: nameOf(id), Kind: a.Kind, State: Queued, Owner: a.Owner, Accept: a.Accept, Created: j.Now().UTC(), RequestBytes: int64(len(a.Request))}
	if err := j.reserve(at, made); err != nil {
		j.meters.refused()
		return Job{}, err
	}
	j.writing.Lock()
	err = j.DB.Update(ctx, func(tx *durable.Tx) error {
		if err := errors.Join(writeJob(tx, at.key(), made), tx.Put(requestBucket, at.key(), a.Request)); err != nil || a.Also == nil {
			return err
		}
		return a.Also(tx, made)
	})
	j.mu.Lock()
	if err != nil {
		j.index.remove(at)
	} else {
		j.index.put(at, made)
	}
	j.mu.Unlock()
	j.writing.Unlock()
	if err != nil {
		return Job{}, fmt.Errorf("create job: %w", err)
	}
	j.rouse()
	return made, nil
}

// reserve takes the room for a job before it is written, so that many at once can't exceed the limits. It is not eligible to
// run until put says that it is queued.
func (j *Jobs) reserve(at place, made Job) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	count, bytes := j.index.use(at.tenant)
	if count >= j.Limits.MaxPerTenant || bytes+made.Bytes() > megabytes(j.Limits.MaxMBPerTenant) || j.index.bytes+made.Bytes() > megabytes(j.Limits.MaxMB) {
		return ErrFull
	}
	made.State = ""
	j.index.put(at, made)
	return nil
}

func megabytes(n int) int64 { return int64(n) << 20 }

// rouse lets the scheduler look again.
func (j *Jobs) rouse() {
	select {
	case j.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Get is one of a tenant's jobs.
func (j *Jobs) Get(ctx context.Context, tenant, name string) (Job, error) {
	id, err := parseID(name)
	if err != nil {
		return Job{}, err
	}
	if err := j.ready(ctx); err != nil {
		return Job{}, err
	}
	var out Job
	err = j.DB.View(ctx, func(tx *durable.Tx) error {
		out, err = readJob(tx, key(tenant, id))
		return err
	})
	return out, err
}

// Result is a job's answer: ErrNotOver while it waits or runs, its *Failure if it has failed, ErrOver if it was cancelled.
func (j *Jobs) Result(ctx context.Context, tenant, name string) (Result, error) {
	id, err := parseID(name)
	if err != nil {
		return Result{}, err
	}
	if err := j.ready(ctx); err != nil {
		return Result{}, err
	}
	var out Result
	err = j.DB.View(ctx, func(tx *durable.Tx) error {
		job, err := readJob(tx, key(tenant, id))
		if err != nil {
			return err
		}
		switch job.State {
		case Failed:
			return job.Failure
		case Cancelled:
			return ErrOver
		case Done:
		default:
			return ErrNotOver
		}
		record, err := tx.Get(resultBucket, key(tenant, id))
		if err != nil {
			return err
		}
		out, err = parseResult(record)
		return err
	})
	return out, err
}

// Cancel ends a job that is not over. A result that comes afterwards is dropped.
func (j *Jobs) Cancel(ctx context.Context, tenant, name string) (Job, error) {
	return j.end(ctx, tenant, name, func(tx *durable.Tx, at []byte, job *Job) error {
		if job.State.Over() {
			return ErrOver
		}
		job.State = Cancelled
		return j.close(tx, at, job)
	}, false)
}

// Delete removes a job and its result; one that is not over is cancelled.
func (j *Jobs) Delete(ctx context.Context, tenant, name string) error {
	_, err := j.end(ctx, tenant, name, func(tx *durable.Tx, at []byte, _ *Job) error { return erase(tx, at) }, true)
	return err
}

// end changes a job in the database, then in the index, and ends its run, if there is one.
func (j *Jobs) end(ctx context.Context, tenant, name string, change func(*durable.Tx, []byte, *Job) error, gone bool) (Job, error) {
	id, err := parseID(name)
	if err != nil {
		return Job{}, err
	}
	if err := j.ready(ctx); err != nil {
		return Job{}, err
	}
	at := place{tenant, id}
	var job Job
	var before State
	j.writing.Lock()
	defer j.writing.Unlock()
	if err := j.DB.Update(ctx, func(tx *durable.Tx) error {
		if job, err = readJob(tx, at.key()); err != nil {
			return err
		}
		before = job.State
		return change(tx, at.key(), &job)
	}); err != nil {
		return Job{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if gone {
		j.index.remove(at)
	} else {
		j.index.put(at, job)
	}
	if r := j.runs[at]; r != nil {
		r.cancel(errCancelled)
	}
	if before.Over() {
		return job, nil
	}
	if gone {
		job.State = Cancelled
	}
	j.meters.over(job.Kind, job.State)
	return job, nil
}
