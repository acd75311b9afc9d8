package openai

import (
	"encoding/json"
	"strings"
)

// Responder makes the answer of /v1/responses out of the pieces of one choice, and on the way the events of its stream.
// Its user calls Begin, Push for each piece, and End.
type Responder struct {
	r       *ResponseRequest
	head    Head // ID is resp_...
	newID   func(prefix string) string
	emit    func(kind string, event []byte) // nil = nobody streams
	output  []outputOf
	finish  string
	number  int // of the next event
	sampled struct{ temperature, topP float32 }
}

// outputOf is one item of the output: a message, or a call of a tool.
type outputOf struct {
	id       string
	call     *Call // nil = a message
	text     strings.Builder
	logprobs []Token
	done     bool
}

// NewResponder makes a Responder. newID makes ids with a prefix, emit takes the events; temperature and topP are what the
// request is sampled with.
func NewResponder(r *ResponseRequest, head Head, temperature, topP float32, newID func(prefix string) string, emit func(kind string, event []byte)) *Responder {
	a := &Responder{r: r, head: head, newID: newID, emit: emit}
	a.sampled.temperature, a.sampled.topP = temperature, topP
	return a
}

// members is a JSON object of an event or an item.
type members map[string]any

// Emit sends an event of a type, with its number.
func (a *Responder) Emit(kind string, event map[string]any) {
	if a.emit == nil {
		return
	}
	event["type"], event["sequence_number"] = kind, a.number
	a.number++
	a.emit(kind, marshal(event))
}

// Begin opens the stream.
func (a *Responder) Begin() {
	for _, kind := range []string{"response.created", "response.in_progress"} {
		a.Emit(kind, members{"response": a.response("in_progress", nil, nil)})
	}
}

// Push takes a piece: text and calls, in this order.
func (a *Responder) Push(c Choice) {
	if c.Finish != "" {
		a.finish = c.Finish
	}
	if c.Text != "" || len(c.Logprobs) > 0 && len(c.Calls) == 0 {
		a.text(c)
	}
	for _, call := range c.Calls {
		a.call(call)
	}
}

func (a *Responder) last() *outputOf {
	if len(a.output) == 0 {
		return nil
	}
	return &a.output[len(a.output)-1]
}

func (a *Responder) text(c Choice) {
	if o := a.last(); o == nil || o.call != nil {
		a.open(outputOf{id: a.newID("msg_")})
	}
	o := a.last()
	o.text.WriteString(c.Text)
	o.logprobs = append(o.logprobs, c.Logprobs...)
	a.Emit("response.output_text.delta", a.at(members{"content_index": 0, "delta": c.Text, "logprobs": responseTokens(c.Logprobs)}))
}

func (a *Responder) call(c Call) {
	if c.ID != "" {
		a.open(outputOf{id: a.newID("fc_"), call: &Call{Index: c.Index, ID: c.ID, Name: c.Name}})
	}
	a.last().call.Arguments += c.Arguments
	if c.Arguments != "" {
		a.Emit("response.function_call_arguments.delta", a.at(members{"delta": c.Arguments}))
	}
}

// at adds which item an event is about: the last one.
func (a *Responder) at(event members) members {
	event["output_index"], event["item_id"] = len(a.output)-1, a.last().id
	return event
}

// open closes the item under way and begins another one.
func (a *Responder) open(o outputOf) {
	a.close("completed")
	a.output = append(a.output, o)
	a.Emit("response.output_item.added", members{"output_index": len(a.output) - 1, "item": a.last().item("in_progress", false)})
	if o.call == nil {
		a.Emit("response.content_part.added", a.at(members{"content_index": 0, "part": part("", nil)}))
	}
}

// close ends the item under way.
func (a *Responder) close(status string) {
	o := a.last()
	if o == nil || o.done {
		return
	}
	o.done = true
	if o.call != nil {
		a.Emit("response.function_call_arguments.done", a.at(members{"arguments": o.call.Arguments, "name": o.call.Name}))
	} else {
		a.Emit("response.output_text.done", a.at(members{"content_index": 0, "text": o.text.String(), "logprobs": responseTokens(o.logprobs)}))
		a.Emit("response.content_part.done", a.at(members{"content_index": 0, "part": part(o.text.String(), o.logprobs)}))
	}
	a.Emit("response.output_item.done", members{"output_index": len(a.output) - 1, "item": o.item(status, true)})
}

// End closes everything, sends the last event and returns the whole answer.
func (a *Responder) End(u Usage, m *Meta) []byte {
	status := "completed"
	if a.finish == "length" {
		status = "incomplete"
	}
	if len(a.output) == 0 { // the model has ended the text at once
		a.open(outputOf{id: a.newID("msg_")})
	}
	a.close(status)
	whole := a.response(status, &u, m)
	a.Emit("response."+status, members{"response": whole})
	return marshal(whole)
}

// Fail ends a stream with an error.
func (a *Responder) Fail(e Error) {
	a.Emit("error", members{"code": e.Code, "message": e.Message, "param": e.Param, "request_id": e.RequestID})
}

func (o *outputOf) item(status string, whole bool) members {
	if o.call != nil {
		return members{"id": o.id, "type": "function_call", "status": status, "call_id": o.call.ID, "name": o.call.Name, "arguments": o.call.Arguments}
	}
	content := []any{}
	if whole {
		content = append(content, part(o.text.String(), o.logprobs))
	}
	return members{"id": o.id, "type": "message", "status": status, "role": "assistant", "content": content}
}

func part(text string, logprobs []Token) members {
	return members{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": responseTokens(logprobs)}
}

func responseTokens(tokens []Token) []chatToken {
	if shape := chatShape(tokens); shape != nil {
		return shape.Content
	}
	return []chatToken{}
}

// response is the whole object as it is now.
func (a *Responder) response(status string, u *Usage, m *Meta) members {
	out := members{
		"id": a.head.ID, "object": "response", "created_at": a.head.Created, "model": a.head.Model, "status": status,
		"error": nil, "incomplete_details": nil, "usage": nil,
	}
	for name, otherwise := range repeated {
		if v := a.r.given[name]; v != nil {
			out[name] = v
		} else {
			out[name] = json.RawMessage(otherwise)
		}
	}
	if a.r.Sampling.Temperature == nil {
		out["temperature"] = a.sampled.temperature
	}
	if a.r.Sampling.TopP == nil {
		out["top_p"] = a.sampled.topP
	}
	items := []any{}
	for i := range a.output {
		itemStatus := "completed"
		if i == len(a.output)-1 {
			itemStatus = status
		}
		items = append(items, a.output[i].item(itemStatus, true))
	}
	out["output"] = items
	if status == "incomplete" {
		out["incomplete_details"] = members{"reason": "max_output_tokens"}
	}
	if u != nil {
		out["usage"] = members{
			"input_tokens": u.PromptTokens, "input_tokens_details": members{"cached_tokens": u.CachedTokens, "cache_write_tokens": 0},
			"output_tokens": u.CompletionTokens, "output_tokens_details": members{"reasoning_tokens": 0}, "total_tokens": u.PromptTokens + u.CompletionTokens,
		}
	}
	if m != nil {
		out["meta"] = m
	}
	if a.head.Routing != "" {
		out["routing"] = a.head.Routing
	}
	if a.head.Pimoe != nil {
		out["pimoe"] = a.head.Pimoe
	}
	return out
}

// Attach puts what a traced request gets into the answer. It is called before End.
func (a *Responder) Attach(v any) { a.head.Pimoe = v }
