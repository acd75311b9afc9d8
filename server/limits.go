package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/limit"
	"github.com/pimoe/pimoe/server/memory"
)

// rulesOf is limits.rates for a Limiter.
func rulesOf(l config.Limits) []limit.Rule {
	rules := make([]limit.Rule, len(l.Rates))
	for i, r := range l.Rates {
		role, _ := access.ParseRole(r.Role) // empty is none, and the configuration was validated
		rules[i] = limit.Rule{Key: r.Key, Tenant: r.Tenant, Role: role, Whole: r.Per == "tenant", Requests: int64(r.Requests), Tokens: int64(r.Tokens), Concurrent: r.Concurrent}
	}
	return rules
}

// openLimits makes the limiter, with buckets in Redis where there is one.
func (s *Server) openLimits(cfg config.Config) {
	o := limit.Options{Now: s.clock}
	if s.redis != nil {
		o.Shared = limit.NewRedis(s.redis)
	}
	s.limiter = limit.New(nil, o)
	s.useLimits(cfg.Limits)
	s.memory = memory.Start(memory.Options{Read: s.memoryUse, Relieve: s.relieve, Every: s.limits.memory, Log: s.log})
}

// memoryUse is how much memory is used of what may be: by limits.total_memory_mb, else by the cgroup.
func (s *Server) memoryUse() memory.Use {
	total := int64(s.now.Load().Limits.TotalMemoryMB) << 20
	if total == 0 {
		return memory.Cgroup()
	}
	pids := []int{os.Getpid()}
	if s.service.plugins != nil {
		pids = append(pids, s.service.plugins()...)
	}
	return memory.Use{Used: memory.Private(pids), Limit: total}
}

// relieve gives up what is only kept for requests to come.
func (s *Server) relieve() {
	s.service.engine.Trim()
	s.forms.drop()
}

// errMemory refuses work while memory is short. What frees it is the end of requests, which nobody can foretell.
var errMemory = &fault{status: http.StatusServiceUnavailable, code: "memory_short", message: "the server has too little memory left for new work", retry: true, after: 2 * time.Second}

func (s *Server) closeLimits() {
	if s.memory != nil { // of a New that failed
		s.memory.Close()
	}
}

// useLimits takes over what may change in limits, at the start and at a reload.
func (s *Server) useLimits(l config.Limits) { s.limiter.Use(rulesOf(l)) }

// admit decides whether a request may go on, by its principal's limits and by what the engine foretells. Its body has not been
// read.
func (x *exchange) admit(priority string, length int) (err error) {
	switch {
	case x.s.drain.Load():
		return errStopping
	case x.s.memory.Pressed():
		return errMemory
	}
	if x.req.priority, err = priorityOf(priority, x.req.principal); err != nil {
		return err
	}
	if err := x.s.service.engine.Admits(x.req.principal.Tenant, x.req.priority, time.Time{}); err != nil {
		return err
	}
	x.grant, err = x.s.limiter.Admit(x.ctx, x.req.principal, x.s.estimate(length))
	var refused *limit.Refused
	if errors.As(err, &refused) {
		x.windows = refused.Windows
		x.s.meters.limited(string(refused.Kind))
		return faultOfLimit(refused)
	}
	if err == nil {
		x.windows = x.grant.Windows()
	}
	return err
}

// priorities are the values of Pimoe-Priority, and the role from which on each may be asked for.
var priorities = map[string]struct {
	priority engine.Priority
	role     access.Role
}{
	"":       {engine.Normal, access.User},
	"low":    {engine.Low, access.User},
	"normal": {engine.Normal, access.User},
	"high":   {engine.High, access.Operator}, // it goes before what others wait for
}

func priorityOf(header string, p access.Principal) (engine.Priority, error) {
	want, ok := priorities[header]
	switch {
	case !ok:
		return engine.Normal, &fault{status: http.StatusBadRequest, code: "invalid_header", message: "Pimoe-Priority: expected low, normal or high", param: "Pimoe-Priority"}
	case p.Role < want.role:
		return engine.Normal, fmt.Errorf("%w: priority %s is for role %s", access.ErrForbidden, header, want.role)
	}
	return want.priority, nil
}

// faultOfOverload is what a client may know of the engine's refusal, and when to come again; nil for another error.
func faultOfOverload(err error) *fault {
	var over *engine.OverloadError
	if !errors.As(err, &over) {
		return nil
	}
	return &fault{status: http.StatusServiceUnavailable, code: "overloaded", message: "as many requests as can be answered in time are running and waiting", retry: true, after: over.After}
}

// bytesPerToken is about what a token of English text has as JSON. The estimate only has to be near: it is settled at the end.
const bytesPerToken = 4

// estimate guesses a prompt's tokens from the length of the body; below 0 = not known.
func (s *Server) estimate(length int) int64 {
	return int64(min(max(length, 0)/bytesPerToken, s.service.context))
}

// limitKinds are what can be limited.
var limitKinds = []limit.Kind{limit.Requests, limit.Tokens, limit.Concurrent}

func faultOfLimit(r *limit.Refused) *fault {
	f := &fault{status: http.StatusTooManyRequests, code: "rate_limit_exceeded", message: r.Error(), retry: r.After > 0, after: r.After}
	switch {
	case r.Kind == limit.Concurrent:
		f.code, f.retry = "too_many_concurrent_requests", true
	case r.After == 0:
		f.code = "request_beyond_rate_limit"
	}
	return f
}

// settle ends the grant: of its tokens as many count as the request has used.
func (x *exchange) settle() {
	if x.grant != nil {
		x.grant.Close(context.WithoutCancel(x.ctx), int64(x.req.tokens.prompt+x.req.tokens.completion))
	}
}

// limitHeaders tell a client what is left of its limits: OpenAI's headers, and those of draft-ietf-httpapi-ratelimit-headers.
func (x *exchange) limitHeaders(set func(name, value string)) {
	var policy, state []string
	for _, kind := range []limit.Kind{limit.Requests, limit.Tokens} {
		w, ok := scarcest(x.windows, kind)
		if !ok {
			continue
		}
		reset := seconds(w.Reset)
		set("X-Ratelimit-Limit-"+string(kind), strconv.FormatInt(w.Limit, 10))
		set("X-Ratelimit-Remaining-"+string(kind), strconv.FormatInt(w.Left, 10))
		set("X-Ratelimit-Reset-"+string(kind), (time.Duration(reset) * time.Second).String())
		policy = append(policy, fmt.Sprintf("%q;q=%d;w=%d", kind, w.Limit, int(limit.Period/time.Second)))
		state = append(state, fmt.Sprintf("%q;r=%d;t=%d", kind, w.Left, reset))
	}
	if policy != nil {
		set("RateLimit-Policy", strings.Join(policy, ", "))
		set("RateLimit", strings.Join(state, ", "))
	}
}

// scarcest is the bucket of a kind that has least left: a principal's own or its tenant's.
func scarcest(windows []limit.Window, kind limit.Kind) (out limit.Window, found bool) {
	for _, w := range windows {
		if w.Kind == kind && (!found || w.Left < out.Left) {
			out, found = w, true
		}
	}
	return out, found
}

// seconds is a time in whole seconds, as headers have it: never too early.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// retryAfter is the header of that name.
func retryAfter(d time.Duration) string { return strconv.FormatInt(max(seconds(d), 1), 10) }

// bodyLimit is the largest body that a path takes.
func bodyLimit(path string) int {
	if takesTensors(path) {
		return tensorBody
	}
	return generateBody
}

// takeBody reads the body, which the listener has left on the connection.
func takeBody(c *fiber.Ctx) ([]byte, error) {
	r := &c.Context().Request
	most, length, stream := bodyLimit(c.Path()), r.Header.ContentLength(), r.BodyStream()
	if length > most {
		return nil, faultOfFiber(fiber.ErrRequestEntityTooLarge)
	}
	if stream == nil {
		return nil, nil
	}
	var body []byte
	var err error
	if length >= 0 {
		body = make([]byte, length)
		_, err = io.ReadFull(stream, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(stream, int64(most)+1))
	}
	var late net.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		return nil, faultOfFiber(fiber.ErrRequestTimeout)
	case err != nil:
		return nil, faultOfFiber(fiber.ErrBadRequest)
	case len(body) > most:
		return nil, faultOfFiber(fiber.ErrRequestEntityTooLarge)
	}
	return body, nil
}

// bodyTime is how long a body may take: a moment, and the time that a slow link needs for its length. More would let a
// client hold a connection with a byte now and then.
func (l serverLimits) bodyTime(length int) time.Duration {
	if length < 0 {
		return l.body
	}
	return min(l.header+time.Duration(length)*time.Second/slowestBody, l.body)
}

// slowestBody is the least rate of a body, in bytes a second: a bad mobile link has several times as much.
const slowestBody = 16 << 10
