package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/strictjson"
	"github.com/pimoe/pimoe/server/tracing"
	"github.com/pimoe/pimoe/server/ws"
)

// The kinds of events of a generation, beside those that streams of the other routes name.
const (
	eventToken = "token"
	eventDone  = "done"
	eventError = "error"
)

// errCancelled is the cause of a request that its client has cancelled.
var errCancelled = &fault{status: statusGone, code: "cancelled", message: "the client has cancelled the request"}

// numbered is a generation whose events are numbered and can be had again.
type numbered struct {
	skip int    // events that the client has from another server
	seed *int64 // by which the same answer can be had again; nil where there is no such thing
}

// adapt makes a stream of the request that can be repeated: a server that does not know the generation can compute the
// rest of it.
func (n *numbered) adapt(s *Server, want *openai.Request, prompts int) error {
	want.Stream = true
	if n.skip > 0 {
		if prompts*want.N > 1 {
			return &strictjson.Error{Path: "n", Expected: "one choice in a request that another server goes on with: the events of several come in any order", Got: strconv.Itoa(prompts * want.N)}
		}
		if want.Sampling.Seed == nil {
			return strictjson.Missing("seed", "the seed from the accepted message")
		}
	}
	if want.Sampling.Seed == nil && s.service.routing == "" {
		seed := rand.Int64N(1 << 53) // that JavaScript can say
		want.Sampling.Seed = &seed
	}
	n.seed = want.Sampling.Seed
	return nil
}

// owner is whose a generation is.
func owner(p access.Principal) ws.Owner {
	return ws.Owner{Kind: string(p.Kind), ID: p.ID, Tenant: p.Tenant}
}

// exchange is a request of this connection as the routes know them.
func (c *socket) exchange(m ws.Message, p access.Principal) *exchange {
	s := c.hub.s
	s.running.add()
	x := &exchange{s: s, route: route{method: "WS", path: string(m.Type)}, began: time.Now(), stop: func() {}}
	x.req = &request{id: uuid.NewString(), contentType: mimeJSON, body: m.Data, principal: p, client: c.client}
	x.trace = s.tracer.Begin(tracing.Parent{}, x.route.name(), true, x.began)
	x.ctx, x.cancel = context.WithCancelCause(access.With(tracing.With(s.base, x.trace), p))
	return x
}

// begin runs a request on a goroutine of its own. run answers it; its error is told to the client.
func (c *socket) begin(m ws.Message, keep bool, run func(x *exchange) (status int, err error)) error {
	c.mu.Lock()
	if err := c.state.Begin(m.ID.Value); err != nil {
		c.mu.Unlock()
		return err
	}
	x := c.exchange(m, c.principal)
	c.note(m.ID, &work{x.cancel, keep})
	c.hub.running.Add(1) // by the reader, which is counted
	c.mu.Unlock()
	go func() {
		defer c.hub.running.Done()
		status, err := x.guarded(m, run)
		if err != nil {
			f := x.blame(err)
			status = f.status
			c.conclude(m.ID, ws.Frame{Bytes: ws.Append(nil, eventError, m.ID, 0, mustJSON(f.problem(x.req.id)))})
		}
		x.stop()
		x.end(status)
	}()
	return nil
}

// note remembers a request under way. mu is held.
func (c *socket) note(id ws.ID, w *work) {
	if c.work == nil {
		c.work = map[string]*work{}
	}
	c.work[id.Value] = w
}

// guarded checks what is the same for all work and runs it. A panic ends this request alone.
func (x *exchange) guarded(m ws.Message, run func(*exchange) (int, error)) (status int, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	if err := x.admit("", len(m.Data)); err != nil {
		return 0, err
	}
	if x.req.take, err = acceptOf(m.Accept); err != nil {
		return 0, err
	}
	if err := x.limit(m.Timeout); err != nil {
		return 0, err
	}
	return run(x)
}

// conclude gives a request its last frame and forgets it, both at once: who has read the frame may use the id again.
func (c *socket) conclude(id ws.ID, f ws.Frame) {
	c.mu.Lock()
	c.deliver(f)
	last := c.forget(id)
	c.mu.Unlock()
	if last {
		c.end(ws.GoingAway)
	}
}

// ended forgets a request whose last frame went another way.
func (c *socket) ended(id ws.ID) {
	c.mu.Lock()
	last := c.forget(id)
	c.mu.Unlock()
	if last {
		c.end(ws.GoingAway)
	}
}

// forget reports whether that was the last request of a connection that leaves, which goes then. mu is held.
func (c *socket) forget(id ws.ID) bool {
	delete(c.work, id.Value)
	c.state.End(id.Value, time.Now())
	return c.leaving && c.state.Working() == 0
}

// finished ends the reading of a generation.
func (c *socket) finished(r *reading) {
	c.mu.Lock()
	if at := slices.Index(c.reads, r); at >= 0 {
		c.reads = slices.Delete(c.reads, at, at+1)
	}
	c.mu.Unlock()
	if !r.ended {
		c.refuse(r.id, "WS generate", errElsewhere)
	}
	r.journal.Detach(r.turn, time.Now())
	c.ended(r.id)
}

// errElsewhere is the end of a generation on a connection from which another one has taken it.
var errElsewhere = &fault{status: http.StatusConflict, code: "resumed_elsewhere", message: "another connection has resumed this generation, or it is gone"}

// generate runs the body of either generation route: the one with messages is a chat. Events up to skip are left out.
func (c *socket) generate(m ws.Message, skip int) error {
	handle, err := c.hub.s.generation(m)
	if err != nil {
		return err
	}
	return c.begin(m, m.Resumable, func(x *exchange) (int, error) {
		x.req.numbered = &numbered{skip: skip}
		j, err := c.hub.store.New(x.req.id, owner(x.req.principal), skip, time.Now(), x.cancel)
		if err != nil {
			return 0, err
		}
		rep, err := handle(x.ctx, x.req)
		if err != nil {
			c.hub.store.Drop(j)
			return 0, err
		}
		accepted := map[string]any{"generation": j.Generation, "model_digest": c.hub.s.service.digest}
		if x.req.numbered.seed != nil {
			accepted["seed"] = *x.req.numbered.seed
		}
		c.push("accepted", m.ID, mustJSON(accepted))
		err = c.follow(m.ID, j, skip)
		if err != nil {
			x.cancel(err) // the stream ends what the handler has begun
		}
		return x.record(rep, j), err
	})
}

// generation is the route that a generate message's data is for.
func (s *Server) generation(m ws.Message) (handler, error) {
	if m.Data == nil {
		return nil, strictjson.Missing("data", "the body of /v1/completions or /v1/chat/completions")
	}
	members, err := strictjson.ParseObject(m.Data)
	if err != nil {
		return nil, err
	}
	for _, f := range members {
		if f.Name == "messages" {
			return s.chat, nil
		}
	}
	return s.completions, nil
}

// record runs a stream to its end and keeps its events. What goes wrong is the last event, so it is no error here.
func (x *exchange) record(rep *reply, j *ws.Journal) (status int) {
	var failed error
	defer func() {
		if v := recover(); v != nil {
			failed = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
		if failed == nil {
			return
		}
		f := x.blame(failed)
		j.End(eventError, mustJSON(f.problem(x.req.id)), time.Now())
		status = f.status
	}()
	failed = rep.stream(x.ctx, &events{to: func(kind string, text []byte) error {
		if kind == "" {
			kind = eventToken
		}
		return j.Append(kind, bytes.Clone(text))
	}})
	if failed != nil {
		return 0
	}
	u := x.req.tokens
	j.End(eventDone, mustJSON(map[string]any{
		"status": x.quality(), "usage": map[string]int{"prompt_tokens": u.prompt, "completion_tokens": u.completion, "total_tokens": u.prompt + u.completion},
	}), time.Now())
	return http.StatusOK
}

// follow makes this connection the reader of a generation. A connection that has ended meanwhile leaves it alone.
func (c *socket) follow(id ws.ID, j *ws.Journal, last int) error {
	turn, err := j.Attach(last, c.wake)
	if err != nil {
		return err
	}
	c.mu.Lock()
	gone := c.gone
	if !gone {
		c.reads = append(c.reads, &reading{id: id, journal: j, turn: turn, last: last})
		c.woken = true
		c.kick()
	}
	c.mu.Unlock()
	if gone {
		j.Detach(turn, time.Now())
	}
	return nil
}

// resume goes on with a generation: with the one that is here, or by computing it again.
func (c *socket) resume(m ws.Message) error {
	r, err := m.Resumption()
	if err != nil {
		return err
	}
	s := c.hub.s
	j, err := c.hub.store.Find(r.Generation, owner(c.who()))
	if err != nil && r.Request != nil {
		if r.Digest != "" && r.Digest != s.service.digest {
			return &fault{status: http.StatusConflict, code: "model_changed", message: "another model has begun this answer", param: "data.model_digest"}
		}
		m.Data = r.Request
		s.meters.socketResumed("computed")
		return c.generate(m, r.LastEvent)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	err = c.state.Begin(m.ID.Value)
	if err == nil {
		c.note(m.ID, &work{j.Cancel, true})
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	c.push("resumed", m.ID, mustJSON(map[string]any{"generation": j.Generation}))
	if err := c.follow(m.ID, j, r.LastEvent); err != nil {
		c.ended(m.ID)
		return err
	}
	s.meters.socketResumed("kept")
	return nil
}

// cancel ends a request of this connection. Its last event says so.
func (c *socket) cancel(m ws.Message) error {
	c.mu.Lock()
	w := c.work[m.ID.Value]
	c.mu.Unlock()
	if w == nil {
		return ws.ErrNoAnswer
	}
	w.cancel(errCancelled)
	return nil
}

// process is POST /api/v1/process: JSON in a text frame, or float32 behind it in a binary one, and the answer alike.
func (c *socket) process(m ws.Message) error {
	return c.begin(m, false, func(x *exchange) (int, error) {
		if m.Bytes != nil {
			q, err := processQuery(m)
			if err != nil {
				return 0, err
			}
			x.req.query, x.req.body, x.req.contentType, x.req.accept = q, m.Bytes, mimeBytes, mimeBytes
		} else if m.Data == nil {
			return 0, strictjson.Missing("data", "the body of "+processPath)
		}
		rep, err := c.hub.s.process(x.ctx, x.req)
		if err != nil {
			return 0, err
		}
		f := ws.Frame{Bytes: ws.Append(nil, "response", m.ID, 0, rep.body)}
		if rep.contentType == mimeBytes {
			head := map[string]any{
				"shape": shapeOf(rep.header["X-Tensor-Shape"]), "status": rep.header["Pimoe-Status"],
				"model_digest": rep.header["Pimoe-Model-Digest"], "numeric_class": rep.header["Pimoe-Numeric-Class"],
			}
			f = ws.Frame{Binary: true, Bytes: ws.Join(ws.Append(nil, "response", m.ID, 0, mustJSON(head)), rep.body)}
		}
		c.conclude(m.ID, f)
		return http.StatusOK, nil
	})
}

// processQuery is the data of a binary frame as the query of the same request over HTTP.
func processQuery(m ws.Message) (url.Values, error) {
	q := url.Values{}
	if m.Data == nil {
		return nil, strictjson.Missing("data", "an object with shape")
	}
	members, err := strictjson.ParseObject(m.Data)
	if err != nil {
		return nil, err
	}
	for _, f := range members {
		switch {
		case f.IsString():
			text, err := f.Text()
			if err != nil {
				return nil, err
			}
			q.Set(f.Name, text)
		case f.IsArray():
			q.Set(f.Name, strings.Trim(string(f.Raw()), "[] \t\r\n"))
		default:
			q.Set(f.Name, string(f.Raw()))
		}
	}
	return q, nil
}

func shapeOf(text string) (out []int) {
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		out = append(out, n)
	}
	return out
}

// quality is what the answer says of itself where nothing was counted.
func (x *exchange) quality() string {
	if x.req.quality == "" {
		return "exact"
	}
	return x.req.quality
}

// blame logs an error that its client can't be told and makes it one that it can.
func (x *exchange) blame(err error) *fault {
	var f *fault
	if cause := context.Cause(x.ctx); cause != nil && errors.As(cause, &f) {
		return f
	}
	x.refuse(err)
	if cause := context.Cause(x.ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return x.s.faultOf(err)
}
