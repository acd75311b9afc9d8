package server

import (
	"bufio"
	"strings"
)

// events writes server-sent events (HTML Living Standard, 9.2). After an error it writes nothing more.
type events struct {
	w      *bufio.Writer
	to     func(kind string, text []byte) error // takes the events in w's place; kind is empty for data. The text is reused
	before func()                               // called before each event is sent
	err    error
}

// data sends one event. The text holds no line break: it is JSON.
func (e *events) data(text []byte) { e.send("data: ", text) }

// named sends one event of a type of its own.
func (e *events) named(kind string, text []byte) { e.send("event: "+kind+"\ndata: ", text) }

// comment keeps the connection alive and finds out whether the client is still there.
func (e *events) comment() { e.send(": keep-alive", nil) }

// remark sends a line that clients pass over.
func (e *events) remark(text string) { e.send(": "+text, nil) }

// done is OpenAI's last event.
func (e *events) done() { e.send("data: [DONE]", nil) }

func (e *events) send(prefix string, text []byte) {
	if e.err != nil {
		return
	}
	if e.to != nil {
		e.divert(prefix, text)
		return
	}
	e.before()
	_, _ = e.w.WriteString(prefix) // bufio keeps the first error for Flush
	_, _ = e.w.Write(text)
	_, _ = e.w.WriteString("\n\n")
	e.err = e.w.Flush()
}

// divert hands over what is an event; comments and the end of the stream are matters of the format.
func (e *events) divert(prefix string, text []byte) {
	kind, named := strings.CutPrefix(prefix, "event: ")
	if !named && prefix != "data: " {
		return
	}
	if kind, _, _ = strings.Cut(kind, "\n"); !named {
		kind = ""
	}
	e.err = e.to(kind, text)
}
