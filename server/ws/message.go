package ws

import (
	"encoding/json"
	"regexp"
	"strconv"

	"github.com/pimoe/pimoe/server/strictjson"
)

// Type is what a message from a client asks for.
type Type string

// The types.
const (
	Auth        Type = "auth"
	Ping        Type = "ping"
	Pong        Type = "pong"
	Process     Type = "process"
	Generate    Type = "generate"
	Resume      Type = "resume"
	Cancel      Type = "cancel"
	Subscribe   Type = "subscribe"
	Unsubscribe Type = "unsubscribe"
	Publish     Type = "publish"
)

// Types are all of them.
var Types = []Type{Auth, Ping, Pong, Process, Generate, Resume, Cancel, Subscribe, Unsubscribe, Publish}

// ID names a request within its connection. Answers carry it under the name that the request used.
type ID struct {
	Value string
	long  bool // request_id
}

// Message is what a client sends.
type Message struct {
	Type      Type
	ID        ID
	Data      json.RawMessage // nil = none
	Timeout   string          // as the header X-Request-Timeout
	Accept    string          // as the header Pimoe-Accept
	Resumable bool            // of a generation: it goes on for a while without its connection
	Bytes     []byte          // behind the message in a binary frame; nil = it came as text
}

// harmless are ids that can be logged: those of the header X-Request-Id.
var harmless = regexp.MustCompile(`^[A-Za-z0-9._:/-]{1,128}$`)

// Parse reads a frame. The message keeps its bytes. An error is a *strictjson.Error; the message then has what could be
// read before it, so that the refusal can name the request.
func Parse(binary bool, frame []byte) (m Message, err error) {
	m.Resumable = true
	head := frame
	if binary {
		if head, m.Bytes, err = Split(frame); err != nil {
			return m, err
		}
	}
	members, err := strictjson.ParseObject(head)
	if err != nil {
		return m, err
	}
	var first error
	for _, f := range members { // to the end, so that id is known
		if err := m.field(f); err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		return m, first
	}
	return m, m.check()
}

func (m *Message) field(f strictjson.Member) (err error) {
	text := func(to *string) error {
		v, err := f.Text()
		*to = v
		return err
	}
	switch f.Name {
	case "type":
		return text((*string)(&m.Type))
	case "id", "request_id":
		if m.ID.Value != "" {
			return &strictjson.Error{Code: strictjson.DuplicateField, Path: f.Name, Expected: "one of id and request_id", Got: "both"}
		}
		id, err := f.Text()
		if err != nil || !harmless.MatchString(id) {
			return f.Errorf("1 to 128 letters, digits and . _ : / -")
		}
		m.ID = ID{id, f.Name == "request_id"}
	case "data":
		if !f.Null() {
			m.Data = f.Raw()
		}
	case "timeout":
		return text(&m.Timeout)
	case "accept":
		return text(&m.Accept)
	case "resumable":
		m.Resumable, err = f.Bool()
	default:
		return f.Unknown()
	}
	return err
}

// check refuses what no type allows.
func (m *Message) check() error {
	known := false
	for _, t := range Types {
		known = known || m.Type == t
	}
	switch {
	case m.Type == "":
		return strictjson.Missing("type", "one of "+typeNames)
	case !known:
		return &strictjson.Error{Path: "type", Expected: "one of " + typeNames, Got: "another word"}
	case m.ID.Value == "" && m.Type != Ping && m.Type != Pong && m.Type != Auth:
		return strictjson.Missing("id", "a text that names the request on this connection")
	case m.Bytes != nil && m.Type != Process:
		return &strictjson.Error{Path: "type", Expected: "process in a binary frame", Got: string(m.Type)}
	}
	return nil
}

var typeNames = func() (out string) {
	for i, t := range Types {
		if i > 0 {
			out += ", "
		}
		out += string(t)
	}
	return out
}()

// fields reads the members of a message's data; one that is not in the table is refused.
func (m Message) fields(table strictjson.Fields) error {
	if m.Data == nil {
		return strictjson.Missing("data", "an object")
	}
	return table.Read(m.Data)
}

func text(to *string) func(strictjson.Value) error {
	return func(v strictjson.Value) (err error) { *to, err = v.Text(); return }
}

// Token is the credential of an auth message.
func (m Message) Token() (token string, err error) {
	if err = m.fields(strictjson.Fields{"token": text(&token)}); err == nil && token == "" {
		err = strictjson.Missing("token", "a key or a token")
	}
	return token, err
}

// Topic is what a subscribe, unsubscribe or publish message is about; payload is nil where none is given.
func (m Message) Topic() (topic string, payload json.RawMessage, err error) {
	table := strictjson.Fields{"topic": text(&topic)}
	if m.Type == Publish {
		table["payload"] = func(v strictjson.Value) error { payload = v.Raw(); return nil }
	}
	if err = m.fields(table); err != nil {
		return "", nil, err
	}
	if !topicName.MatchString(topic) {
		return "", nil, &strictjson.Error{Path: "topic", Expected: "1 to 64 small letters, digits and . _ - with a letter or digit first", Got: "another text"}
	}
	if m.Type == Publish && payload == nil {
		return "", nil, strictjson.Missing("payload", "any JSON value")
	}
	return topic, payload, nil
}

// Resumption says where to go on.
type Resumption struct {
	Generation string
	LastEvent  int             // the last event that the client has seen; 0 = none
	Request    json.RawMessage // the body of the request, for a server that does not know the generation; nil = none
	Digest     string          // of the model that answered; empty = any
}

// Resumption is the data of a resume message.
func (m Message) Resumption() (r Resumption, err error) {
	err = m.fields(strictjson.Fields{
		"generation":   text(&r.Generation),
		"model_digest": text(&r.Digest),
		"last_event": func(v strictjson.Value) error {
			n, err := v.Int(0, 1<<31)
			r.LastEvent = int(n)
			return err
		},
		"request": func(v strictjson.Value) error {
			if !v.IsObject() {
				return v.Errorf("an object: the data of the generate message")
			}
			r.Request = v.Raw()
			return nil
		},
	})
	if err == nil && r.Generation == "" {
		err = strictjson.Missing("generation", "the name from the accepted message")
	}
	return r, err
}

// Append adds a message of the server's to dst. An empty id and an event of 0 are left out, and so is nil data, which
// otherwise is one JSON value.
func Append(dst []byte, kind string, id ID, event int, data []byte) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, kind...) // a constant of this protocol
	dst = append(dst, '"')
	if id.Value != "" {
		name := `,"id":"`
		if id.long {
			name = `,"request_id":"`
		}
		dst = append(append(append(dst, name...), id.Value...), '"') // harmless, so without escapes
	}
	if event > 0 {
		dst = strconv.AppendInt(append(dst, `,"event":`...), int64(event), 10)
	}
	if data != nil {
		dst = append(append(dst, `,"data":`...), data...)
	}
	return append(dst, '}')
}
