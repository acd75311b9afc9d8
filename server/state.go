package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/durable"
	"github.com/pimoe/pimoe/server/idempotency"
	"github.com/pimoe/pimoe/server/jobs"
	"github.com/pimoe/pimoe/server/seal"
)

// OpenState opens the database of jobs and kept answers that the configuration names; nil where it names none.
func OpenState(cfg config.Config, log *slog.Logger) (*durable.DB, error) {
	box, err := seal.Load(cfg.Encryption)
	if err != nil {
		return nil, err
	}
	path := cfg.State.Path(cfg.Home)
	if path == "" {
		return nil, nil
	}
	return durable.Open(durable.Options{Path: path, Box: box, Log: log, Parts: stateParts()})
}

func stateParts() []durable.Part { return []durable.Part{jobs.Part(), idempotency.Part()} }

// CheckState says whether this version would take a database, without opening it for use.
func CheckState(path string) error { return durable.Check(path, stateParts()) }

// State gives the Server a database, from OpenState, for jobs and idempotency keys. The Server closes it when another host
// takes over, its owner in any case.
func State(db *durable.DB) Option { return func(o *options) { o.state = db } }

// state is what outlives the server; without a database it is empty, and its methods do nothing.
type state struct {
	db   *durable.DB
	jobs *jobs.Jobs
	keys *idempotency.Keys
}

func (s *Server) newState(db *durable.DB) {
	if db == nil {
		return
	}
	s.state = state{
		db: db,
		jobs: jobs.New(jobs.Options{
			DB: db, Limits: s.cfg.Jobs, Work: s.runJob, Log: s.log, Metrics: s.service.metrics, Now: s.clock,
		}),
		keys: idempotency.New(idempotency.Options{DB: db, Limits: s.cfg.Idempotency, Now: s.clock}),
	}
	s.service.metrics.Gauge("pimoe_idempotency_keys", func() float64 { n, _, _ := s.state.keys.Size(); return float64(n) })
	s.service.metrics.Gauge("pimoe_idempotency_bytes", func() float64 { _, n, _ := s.state.keys.Size(); return float64(n) })
}

// forgetEvery is how often answers whose time is up are removed. They are not given out any more in any case.
const forgetEvery = time.Minute

// start runs jobs and forgets old answers until the function that it returns is called, which waits for both.
func (s *state) start(log *slog.Logger) (stop func()) {
	if s.db == nil {
		return func() {}
	}
	s.jobs.Start()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(forgetEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := s.keys.Sweep(ctx); err != nil && !errors.Is(err, durable.ErrElsewhere) {
				log.Warn("forget old answers", "error", err.Error())
			}
		}
	}()
	return func() {
		cancel()
		s.jobs.Stop(ctx)
		<-ended
	}
}

func (s *state) pause() {
	if s.db != nil {
		s.jobs.Pause()
	}
}

// stopJobs lets running jobs go on until ctx ends.
func (s *state) stopJobs(ctx context.Context) {
	if s.db != nil {
		s.jobs.Stop(ctx)
	}
}

// yield gives the database to the host that has taken over, which waits for it: running jobs are put back at once, and the
// file is closed when the last request with an idempotency key has its answer. The function that it returns waits for that.
func (s *state) yield(ctx context.Context, until time.Time, log *slog.Logger) (done func()) {
	if s.db == nil {
		return func() {}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		now, over := context.WithCancel(ctx)
		over()
		s.jobs.Stop(now)
		if err := s.keys.Idle(ctx); err != nil {
			log.Warn("requests with idempotency keys go on without the database", "error", err.Error())
		}
		if err := s.db.Close(); err != nil {
			log.Error("the database can't be closed", "error", err.Error())
		}
	}()
	return func() { <-ended }
}

// errNoJobs and errNoKeys are the answers where there is no database.
var (
	errNoJobs = &fault{status: http.StatusNotFound, code: "no_jobs", message: "this server keeps no jobs: state.file is off"}
	errNoKeys = &fault{status: http.StatusBadRequest, code: "invalid_header", param: onceHeader, message: onceHeader + ": this server keeps none, state.file is off: send the request without"}
)

// stateFaults is the table from the errors of jobs and idempotency keys to HTTP.
var stateFaults = []struct {
	err    error
	status int
	code   string
	retry  bool
}{
	{jobs.ErrFull, http.StatusTooManyRequests, "too_many_jobs", true},
	{jobs.ErrOver, http.StatusConflict, "job_over", false},
	{jobs.ErrNotOver, http.StatusConflict, "job_not_over", true},
	{idempotency.ErrReused, http.StatusConflict, "idempotency_key_reused", false},
	{idempotency.ErrInUse, http.StatusConflict, "idempotency_key_in_use", true},
	{idempotency.ErrFull, http.StatusTooManyRequests, "too_many_idempotency_keys", true},
	{durable.ErrElsewhere, http.StatusServiceUnavailable, "state_elsewhere", true},
}

// faultOfState is nil for another error.
func faultOfState(err error) *fault {
	for _, f := range stateFaults {
		if errors.Is(err, f.err) {
			return &fault{status: f.status, code: f.code, message: plain(f.err), retry: f.retry}
		}
	}
	return nil
}

// failureOf is a fault as a job keeps it.
func failureOf(f *fault) *jobs.Failure {
	return &jobs.Failure{Status: f.status, Code: f.code, Message: f.message, Param: f.param, Passing: f.retry}
}

// faultOfFailure is a job's failure as its owner sees it.
func faultOfFailure(f *jobs.Failure) *fault {
	return &fault{status: f.Status, code: f.Code, message: f.Message, param: f.Param}
}

// stateStats is what /api/v1/stats says of jobs and kept answers.
func (s *Server) stateStats(tenant string, all bool) any {
	if s.state.db == nil {
		return nil
	}
	keys, bytes, under := s.state.keys.Size()
	out := map[string]any{"jobs": s.state.jobs.Count(tenant, all), "max_jobs": s.cfg.Jobs.MaxPerTenant, "encrypted": s.cfg.Encryption.KeyFile != ""}
	if all {
		out["idempotency"] = map[string]any{"keys": keys, "bytes": bytes, "in_flight": under}
	}
	return out
}
