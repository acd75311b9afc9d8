package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/audit"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/strictjson"
)

// fault is an error as a client sees it. Its texts hold nothing of the inside: no paths, process ids or stacks.
type fault struct {
	status        int
	code, message string
	param         string        // the field it is about
	expected, got string        // of a field with a wrong shape or value
	retry         bool          // the same request may succeed later: Retry-After is sent
	after         time.Duration // how much later; 0 = not known
	allow         string        // methods, with 405
}

func (f *fault) Error() string { return f.message }

// statusGone is what the log says of a request whose client has gone; nobody receives it.
const statusGone = 499

// classes is the table from the sdk's error classes to HTTP; the first that fits counts. An empty message shows the
// error's own text, which is about the client's input. 422 is 400 on /v1.
var classes = []struct {
	class         error
	status        int
	code, message string
	retry         bool
}{
	{sdk.ErrDeadline, http.StatusGatewayTimeout, "deadline_exceeded", "the request's time is up", false},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, "deadline_exceeded", "the request's time is up", false},
	{errGone, statusGone, "client_gone", "the client has closed the connection", false},
	{sdk.ErrOverloaded, http.StatusServiceUnavailable, "overloaded", "as many requests as the limits allow are running and waiting", true},
	{errStopping, http.StatusServiceUnavailable, "shutting_down", "the server is stopping", true},
	{audit.ErrUnwritable, http.StatusServiceUnavailable, "audit_unavailable", "the audit log can't be written, so nothing is changed; the server's log says why", true},
	{sdk.ErrUnavailable, http.StatusServiceUnavailable, "unavailable", "the model can't answer at the moment", true},
	{sdk.ErrInvalidOutput, http.StatusBadGateway, "invalid_expert_output", "an expert or the router gave an answer that can't be right; it was not used", false},
	{sdk.ErrInvalid, http.StatusUnprocessableEntity, "invalid_value", "", false},
	{sdk.ErrUnsupported, http.StatusUnprocessableEntity, "unsupported_value", "", false},
	{sdk.ErrNotFound, http.StatusNotFound, "not_found", "there is no such thing here", false},
	{context.Canceled, http.StatusServiceUnavailable, "cancelled", "the request was cancelled", true},
}

// faultOf turns any error into what the client may see. Where status and code are not 500, the error's text for the
// log adds nothing that matters; see Server.refuse.
func (s *Server) faultOf(err error) *fault {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	if f = faultOfAccess(err); f != nil {
		return f
	}
	if f = faultOfSocket(err); f != nil {
		return f
	}
	if f = faultOfState(err); f != nil {
		return f
	}
	if f = faultOfOverload(err); f != nil {
		return f
	}
	var shape *strictjson.Error
	if errors.As(err, &shape) {
		return faultOfShape(shape)
	}
	if refused := (*moe.RefusedError)(nil); errors.As(err, &refused) {
		return &fault{status: http.StatusServiceUnavailable, code: "degradation_refused", message: refused.Public(), retry: true}
	}
	if down := s.down(err); down != nil {
		return &fault{status: http.StatusServiceUnavailable, code: "expert_unavailable", message: down.Error(), retry: true}
	}
	for _, c := range classes {
		if !errors.Is(err, c.class) {
			continue
		}
		f = &fault{status: c.status, code: c.code, message: c.message, retry: c.retry}
		if c.class == sdk.ErrUnavailable && s.drain.Load() {
			f.code, f.message = "shutting_down", "the server is stopping"
		}
		if f.message == "" {
			f.message = plain(err)
		}
		return f
	}
	return &fault{status: http.StatusInternalServerError, code: "internal_error", message: "an internal error; its cause is in the server's log under this request id"}
}

// down is what was missing for an answer: what the error names, or, for a request whose time ran out, what the host
// lacks at this moment, which is what the request has waited for.
func (s *Server) down(err error) *host.UnavailableError {
	var down *host.UnavailableError
	if errors.As(err, &down) {
		return down
	}
	if errors.Is(err, sdk.ErrDeadline) || errors.Is(err, context.DeadlineExceeded) {
		errors.As(s.service.lacking(), &down)
	}
	return down
}

func faultOfShape(e *strictjson.Error) *fault {
	f := &fault{status: http.StatusUnprocessableEntity, code: string(e.Code), message: e.Error(), param: e.Path, expected: e.Expected, got: e.Got}
	switch {
	case e.Malformed:
		f.status, f.code = http.StatusBadRequest, "malformed_json"
	case e.Code == "":
		f.code = string(strictjson.InvalidValue)
	}
	return f
}

// plain is an error's text on one line without the class's name at its end.
func plain(err error) string {
	text := err.Error()
	for _, c := range classes {
		text = strings.TrimSuffix(text, ": "+c.class.Error())
	}
	return strings.Join(strings.Fields(text), " ")
}

// shape is how the errors of a route look.
type shape int

const (
	problemShape shape = iota // RFC 9457: 422 for valid JSON with a wrong shape or value
	openaiShape               // /v1: such a value is 400 with param
	oipShape                  // /v2: such a value is 400
)

// kinds are OpenAI's error types by status; others below 500 are invalid_request_error, above api_error.
var kinds = map[int]string{
	http.StatusServiceUnavailable: "service_unavailable_error",
	http.StatusTooManyRequests:    "rate_limit_error",
	http.StatusGatewayTimeout:     "timeout_error",
}

func (f *fault) openai(id string) openai.Error {
	e := openai.Error{Message: f.message, Type: "invalid_request_error", Code: f.code, RequestID: id}
	if f.param != "" {
		e.Param = &f.param
	}
	if kind, ok := kinds[f.status]; ok {
		e.Type = kind
	} else if f.status >= http.StatusInternalServerError {
		e.Type = "api_error"
	}
	return e
}

// problem is RFC 9457's body. success and error repeat the outcome for clients of /api/v1/process.
type problem struct {
	Type      string  `json:"type"`
	Title     string  `json:"title"`
	Status    int     `json:"status"`
	Detail    string  `json:"detail"`
	Code      string  `json:"code"`
	RequestID string  `json:"request_id"`
	Errors    []field `json:"errors,omitempty"`
	Success   *bool   `json:"success,omitempty"`
	Error     string  `json:"error,omitempty"`
}

// field says what is wrong with one field of a request.
type field struct {
	Field    string `json:"field"`
	Expected string `json:"expected"`
	Got      string `json:"got"`
}

func (f *fault) problem(id string) problem {
	p := problem{Type: "urn:pimoe:error:" + f.code, Title: http.StatusText(f.status), Status: f.status, Detail: f.message, Code: f.code, RequestID: id}
	if f.expected != "" {
		p.Errors = []field{{Field: f.param, Expected: f.expected, Got: f.got}}
	}
	return p
}

// reply is the fault as an answer in the shape of its route.
func (f *fault) reply(sh shape, id string) *reply {
	r := &reply{status: f.status, header: map[string]string{}}
	if f.retry {
		r.header["Retry-After"] = retryAfter(f.after) // at least 1: a restart takes a fraction of a second
	}
	if f.status == http.StatusUnauthorized {
		r.header["WWW-Authenticate"] = `Bearer realm="pimoe"`
	}
	if f.allow != "" {
		r.header["Allow"] = f.allow
	}
	if sh != problemShape && r.status == http.StatusUnprocessableEntity {
		r.status = http.StatusBadRequest
	}
	if sh == oipShape {
		r.contentType, r.body = mimeJSON, f.oip(id)
		return r
	}
	if sh == openaiShape {
		r.contentType, r.body = mimeJSON, f.openai(id).Body()
		return r
	}
	r.contentType, r.body = mimeProblem, mustJSON(f.problem(id))
	return r
}

// mustJSON encodes own types, which always encode.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("server: %T can't be encoded: %v", v, err))
	}
	return b
}
