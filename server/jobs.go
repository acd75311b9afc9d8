package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/durable"
	"github.com/pimoe/pimoe/server/jobs"
	"github.com/pimoe/pimoe/server/limit"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/strictjson"
)

// jobKind is a route whose requests can be run later.
type jobKind struct {
	route string // whose right is needed, too
	// check refuses early what the route would refuse, as far as nothing has to be computed.
	check  func(s *Server, body []byte) error
	handle func(s *Server) handler
}

// jobKinds are the kinds that a job can have.
var jobKinds = map[string]jobKind{
	"completion": {"POST /v1/completions", checkGeneration(openai.DecodeCompletion), func(s *Server) handler { return s.completions }},
	"chat":       {"POST /v1/chat/completions", checkGeneration(openai.DecodeChat), func(s *Server) handler { return s.chat }},
	"process":    {"POST " + processPath, checkProcess, func(s *Server) handler { return s.process }},
}

func checkGeneration(decode func([]byte) (*openai.Request, error)) func(*Server, []byte) error {
	return func(s *Server, body []byte) error {
		want, err := decode(body)
		if err != nil {
			return err
		}
		if want.Stream {
			return &strictjson.Error{Path: "stream", Expected: "false: a job has one result", Got: "true"}
		}
		return errors.Join(s.checkModel(want.Model), s.checkVocabulary(want))
	}
}

func checkProcess(s *Server, body []byte) error {
	_, err := s.processInput(&request{body: body, contentType: mimeJSON})
	return err
}

// jobInput is the body of POST /api/v1/jobs.
type jobInput struct {
	kind, accept string
	request      []byte
}

func (s *Server) readJob(body []byte) (jobInput, error) {
	var in jobInput
	if err := (strictjson.Fields{
		"kind": func(v strictjson.Value) (err error) { in.kind, err = v.Text(); return },
		"accept": func(v strictjson.Value) (err error) {
			if in.accept, err = v.Text(); err != nil {
				return err
			}
			if _, bad := acceptOf(in.accept); bad != nil || in.accept == "" {
				return v.Errorf("exact, or no such field")
			}
			return nil
		},
		"request": func(v strictjson.Value) error {
			if in.request = v.Raw(); !v.IsObject() {
				return v.Errorf("an object: the body of the kind's own route")
			}
			return nil
		},
	}).Read(body); err != nil {
		return in, err
	}
	if _, ok := jobKinds[in.kind]; !ok {
		return in, &strictjson.Error{Path: "kind", Expected: "one of " + strings.Join(slices.Sorted(maps.Keys(jobKinds)), ", "), Got: "another one, or none"}
	}
	if in.request == nil {
		return in, strictjson.Missing("request", "the body of the kind's own route")
	}
	return in, nil
}

// createJob is POST /api/v1/jobs.
func (s *Server) createJob(ctx context.Context, r *request) (*reply, error) {
	if s.state.db == nil {
		return nil, errNoJobs
	}
	if s.drain.Load() {
		return nil, errStopping
	}
	in, err := s.readJob(r.body)
	if err != nil {
		return nil, err
	}
	kind := jobKinds[in.kind]
	rule, err := s.table.Of(kind.route)
	if err == nil {
		err = rule.Allow(r.principal)
	}
	if err != nil {
		return nil, err
	}
	if err := kind.check(s, in.request); err != nil {
		return nil, within("request", err)
	}
	asked := jobs.Asked{Kind: in.kind, Owner: r.principal, Accept: in.accept, Request: in.request}
	if c := r.claim; c != nil {
		asked.Also = func(tx *durable.Tx, made jobs.Job) error {
			rep := s.accepted(made)
			return c.Keep(tx, answerOf(rep, rep.body, true))
		}
	}
	made, err := s.state.jobs.Create(ctx, asked)
	if err != nil {
		if r.claim != nil {
			r.claim.Dropped()
		}
		return nil, err
	}
	s.log.Info("job taken", "request", r.id, "job", made.ID, "kind", made.Kind, "principal", r.principal.ID, "tenant", r.principal.Tenant)
	return s.accepted(made), nil
}

func (s *Server) accepted(made jobs.Job) *reply {
	return &reply{status: http.StatusAccepted, contentType: mimeJSON, header: map[string]string{"Location": jobsPath + "/" + made.ID}, body: mustJSON(s.shownJob(made))}
}

// within says that a wrong field is in another one.
func within(path string, err error) error {
	var shape *strictjson.Error
	if errors.As(err, &shape) {
		inner := *shape
		inner.Path = strings.TrimSuffix(path+"."+shape.Path, ".")
		return &inner
	}
	var f *fault
	if errors.As(err, &f) && f.param != "" {
		inner := *f
		inner.param = path + "." + f.param
		return &inner
	}
	return err
}

// shownJob is a job as its owner sees it.
func (s *Server) shownJob(j jobs.Job) map[string]any {
	out := map[string]any{
		"id": j.ID, "kind": j.Kind, "state": j.State, "attempts": j.Attempts, "created": timeText(j.Created), "started": timeText(j.Started),
		"finished": timeText(j.Finished), "expires": timeText(s.expiry(j)), "result_bytes": j.ResultBytes, "error": nil,
	}
	if f := j.Failure; f != nil {
		failure := map[string]any{"status": f.Status, "code": f.Code, "message": f.Message, "param": nil}
		if f.Param != "" {
			failure["param"] = f.Param
		}
		out["error"] = failure
	}
	return out
}

// expiry is when the job is removed, or given up if it still waits.
func (s *Server) expiry(j jobs.Job) time.Time {
	switch {
	case j.State.Over():
		return j.Finished.Add(s.cfg.Jobs.Retention)
	case j.State == jobs.Queued:
		return j.Created.Add(s.cfg.Jobs.Retention)
	}
	return time.Time{}
}

// timeText is null for a time that has not come.
func timeText(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// listJobs is GET /api/v1/jobs: the caller's tenant's, the newest first.
func (s *Server) listJobs(ctx context.Context, r *request) (*reply, error) {
	if s.state.db == nil {
		return nil, errNoJobs
	}
	limit, state, cursor := 20, jobs.State(""), ""
	for name, values := range r.query {
		bad := func(expected string) error {
			return &strictjson.Error{Path: name, Expected: expected, Got: "another text"}
		}
		if len(values) != 1 {
			return nil, &strictjson.Error{Code: strictjson.DuplicateField, Path: name, Expected: "each parameter once", Got: "a duplicate"}
		}
		var err error
		switch name {
		case "limit":
			if limit, err = strconv.Atoi(values[0]); err != nil || limit < 1 || limit > jobs.MaxPage {
				return nil, bad(fmt.Sprintf("1 to %d", jobs.MaxPage))
			}
		case "state":
			if state = jobs.State(values[0]); !slices.Contains(jobs.States, state) {
				return nil, bad("one of queued, running, done, failed, cancelled")
			}
		case "cursor":
			cursor = values[0]
		default:
			return nil, &strictjson.Error{Code: strictjson.UnknownField, Path: name, Expected: "a documented parameter", Got: "an unknown one"}
		}
	}
	page, next, err := s.state.jobs.List(ctx, r.principal.Tenant, state, limit, cursor)
	if err != nil {
		return nil, err
	}
	list := []any{}
	for _, j := range page {
		list = append(list, s.shownJob(j))
	}
	out := map[string]any{"jobs": list, "next_cursor": nil}
	if next != "" {
		out["next_cursor"] = next
	}
	return jsonReply(out), nil
}

// job is GET /api/v1/jobs/JOB.
func (s *Server) job(ctx context.Context, r *request) (*reply, error) {
	if s.state.db == nil {
		return nil, errNoJobs
	}
	j, err := s.state.jobs.Get(ctx, r.principal.Tenant, r.job)
	if err != nil {
		return nil, err
	}
	return jsonReply(s.shownJob(j)), nil
}

// jobResult is GET /api/v1/jobs/JOB/result: the answer that the request would have had.
func (s *Server) jobResult(ctx context.Context, r *request) (*reply, error) {
	if s.state.db == nil {
		return nil, errNoJobs
	}
	result, err := s.state.jobs.Result(ctx, r.principal.Tenant, r.job)
	if failure := (*jobs.Failure)(nil); errors.As(err, &failure) {
		return nil, faultOfFailure(failure)
	}
	if err != nil {
		return nil, err
	}
	return &reply{status: result.Status, contentType: result.ContentType, header: result.Header, body: result.Body}, nil
}

// cancelJob is POST /api/v1/jobs/JOB/cancel.
func (s *Server) cancelJob(ctx context.Context, r *request) (*reply, error) {
	if s.state.db == nil {
		return nil, errNoJobs
	}
	j, err := s.state.jobs.Cancel(ctx, r.principal.Tenant, r.job)
	if err != nil {
		return nil, err
	}
	s.log.Info("job cancelled", "request", r.id, "job", j.ID, "principal", r.principal.ID)
	return jsonReply(s.shownJob(j)), nil
}

// deleteJob is DELETE /api/v1/jobs/JOB.
func (s *Server) deleteJob(ctx context.Context, r *request) (*reply, error) {
	if s.state.db == nil {
		return nil, errNoJobs
	}
	if err := s.state.jobs.Delete(ctx, r.principal.Tenant, r.job); err != nil {
		return nil, err
	}
	s.log.Info("job deleted", "request", r.id, "job", r.job, "principal", r.principal.ID)
	return &reply{status: http.StatusNoContent}, nil
}

// runJob computes a job as its own route would, with the rights and the tenant of its owner.
func (s *Server) runJob(ctx context.Context, j jobs.Job, body []byte) (jobs.Result, error) {
	kind, ok := jobKinds[j.Kind]
	if !ok {
		return jobs.Result{}, &jobs.Failure{Status: http.StatusUnprocessableEntity, Code: "unsupported_value", Message: fmt.Sprintf("this server runs no jobs of kind %q", j.Kind), Param: "kind"}
	}
	began := time.Now()
	r := &request{id: j.ID, body: body, contentType: mimeJSON, principal: j.Owner}
	var err error
	if r.take, err = acceptOf(j.Accept); err != nil {
		return jobs.Result{}, err
	}
	r.priority = engine.Low // nobody waits for it
	grant, err := s.turn(ctx, j.Owner, len(body))
	if err != nil {
		return jobs.Result{}, err
	}
	defer func() { grant.Close(context.WithoutCancel(ctx), int64(r.tokens.prompt+r.tokens.completion)) }() // also when the handler panics
	rep, err := kind.handle(s)(access.With(ctx, j.Owner), r)
	s.tenants.count(j.Owner.Tenant, r.tokens.prompt, r.tokens.completion)
	if err == nil {
		s.used(r, route{})
	}
	code := "done"
	if err != nil {
		f := s.faultOf(err)
		code = f.code
		if f.status == http.StatusInternalServerError {
			return jobs.Result{}, err // told in the log
		}
		err = failureOf(f)
	}
	s.log.Info("job run", "job", j.ID, "kind", j.Kind, "attempt", j.Attempts, "outcome", code, "seconds", time.Since(began).Seconds(),
		"prompt_tokens", r.tokens.prompt, "completion_tokens", r.tokens.completion, "principal", j.Owner.ID, "tenant", j.Owner.Tenant)
	if err != nil {
		return jobs.Result{}, err
	}
	return jobs.Result{Status: rep.status, ContentType: rep.contentType, Header: rep.header, Body: rep.body}, nil
}

// turn waits until the limits of a job's owner let it run: a job is not refused for what its owner does at the moment.
func (s *Server) turn(ctx context.Context, owner access.Principal, length int) (*limit.Grant, error) {
	for {
		grant, err := s.limiter.Admit(ctx, owner, s.estimate(length))
		var refused *limit.Refused
		if !errors.As(err, &refused) {
			return grant, err
		}
		wait := refused.After
		switch {
		case refused.Kind == limit.Concurrent:
			wait = time.Second
		case wait == 0: // never
			return nil, failureOf(faultOfLimit(refused))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
