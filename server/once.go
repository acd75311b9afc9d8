package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/pimoe/pimoe/server/idempotency"
)

// onceHeader is how a client says that a request may be repeated (draft-ietf-httpapi-idempotency-key-header).
const onceHeader = "Idempotency-Key"

// keepTime bounds the writing of an answer: the request's own time may be up with its last token.
const keepTime = 5 * time.Second

// repeatable reports whether the client may come back for the answer. Such a request goes on when its client is gone, within
// its time: else the repetition would compute, and be charged, once more.
func (x *exchange) repeatable() bool { return x.key != "" && x.s.state.db != nil }

// once runs a handler, or answers as the first request with the same idempotency key was answered. An answer is on the disk
// before its client has it whole. Errors are not kept: nothing has come of such a request, and it may be sent again.
func (x *exchange) once(c *fiber.Ctx, run func(context.Context, handler) (*reply, error)) (*reply, error) {
	if x.key == "" {
		return run(x.ctx, x.route.handle)
	}
	if err := checkKey(x.key); err != nil {
		return nil, err
	}
	if x.s.state.db == nil {
		return nil, errNoKeys
	}
	claim, kept, err := x.s.state.keys.Claim(x.ctx, x.req.principal.Tenant, x.key, x.print(c))
	if err != nil {
		return nil, err
	}
	if kept != nil {
		x.s.meters.r.Counter("pimoe_idempotent_replays_total").Inc()
		return repeated(kept)
	}
	x.req.claim = claim
	streams := false
	defer func() { // also when the handler panics
		if !streams {
			claim.Release()
		}
	}()
	rep, err := run(x.ctx, x.route.handle)
	if streams = err == nil && rep.stream != nil; streams {
		rep.stream = x.recorded(rep, rep.stream) // which releases
		return rep, nil
	}
	if err != nil || rep.status/100 != 2 || claim.Kept() {
		return rep, err
	}
	return rep, x.keep(rep, rep.body, true)
}

// checkKey refuses keys that would not come through proxies unchanged.
func checkKey(key string) error {
	for i := range len(key) {
		if key[i] < '!' || key[i] > '~' || len(key) > idempotency.MaxKey {
			return &fault{
				status: http.StatusBadRequest, code: "invalid_header", param: onceHeader,
				message: fmt.Sprintf("%s: expected 1 to %d printable ASCII characters without spaces, such as a UUID", onceHeader, idempotency.MaxKey),
			}
		}
	}
	return nil
}

// print is the fingerprint of all that the answer depends on, and of who has asked: a trace, for one, is for its owner alone. It
// is of the body's bytes: another order of the same fields is another request.
func (x *exchange) print(c *fiber.Ctx) []byte {
	r := x.req
	return idempotency.Print([]byte(r.principal.Kind), []byte(r.principal.ID), []byte(x.route.name()), []byte(r.contentType), c.Context().URI().QueryString(), []byte(r.shape), []byte(r.accept), fmt.Append(nil, r.take), r.body)
}

// repeated is a kept answer, byte for byte.
func repeated(a *idempotency.Answer) (*reply, error) {
	if !a.Whole {
		return nil, &fault{status: http.StatusConflict, code: "idempotent_answer_too_large", message: "the request with this Idempotency-Key was answered, and the answer was too large to be kept"}
	}
	rep := &reply{status: a.Status, contentType: a.ContentType, header: map[string]string{"Idempotent-Replayed": "true"}, body: a.Body}
	for k, v := range a.Header {
		rep.header[k] = v
	}
	return rep, nil
}

// keep writes the answer down. One that can't be written is not sent either: its repetition would be computed once more.
func (x *exchange) keep(rep *reply, body []byte, whole bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), keepTime)
	defer cancel()
	return x.req.claim.Done(ctx, answerOf(rep, body, whole))
}

func answerOf(rep *reply, body []byte, whole bool) idempotency.Answer {
	return idempotency.Answer{Status: rep.status, ContentType: rep.contentType, Header: rep.header, Body: body, Whole: whole}
}

// recorded runs a stream to its end, whether or not the client is still there, and keeps its bytes.
func (x *exchange) recorded(rep *reply, stream func(context.Context, *events) error) func(context.Context, *events) error {
	return func(ctx context.Context, w *events) error {
		defer x.req.claim.Release()
		t := &recording{to: w, whole: true}
		err := stream(ctx, &events{w: bufio.NewWriter(t), before: w.before})
		if err == nil {
			err = x.keep(rep, t.bytes, t.whole)
		}
		if err != nil {
			return err
		}
		t.send(lastEvent)
		return nil
	}
}

// lastEvent is sent after the recording has been kept: who has it has an answer that is there again.
var lastEvent = []byte("data: [DONE]\n\n")

// recording passes on what it is given for as long as somebody takes it, and keeps it as far as there is room.
type recording struct {
	to    *events
	bytes []byte
	whole bool
}

// Write never fails: the request goes on without its client.
func (r *recording) Write(p []byte) (int, error) {
	if r.whole = r.whole && len(r.bytes)+len(p) <= idempotency.MaxAnswer; r.whole {
		r.bytes = append(r.bytes, p...)
	}
	if !bytes.Equal(p, lastEvent) {
		r.send(p)
	}
	return len(p), nil
}

func (r *recording) send(p []byte) {
	if r.to.err != nil {
		return
	}
	_, err := r.to.w.Write(p)
	r.to.err = errors.Join(err, r.to.w.Flush())
}
