package server

import (
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/replay"
)

// This file is the trace that the principal of a request gets with pimoe: {trace: true}, in the answer and nowhere else.

// tracePiece is a part of a trace in an event of a stream.
type tracePiece struct {
	Index     int              `json:"index"`
	Processes []replay.Process `json:"processes,omitempty"` // that come new behind those of the events before
	Tokens    []replay.Token   `json:"tokens"`
}

// traceOf is what an event says of a piece.
func (g *generation) traceOf(p piece) *tracePiece {
	return &tracePiece{Index: p.Index, Processes: g.recorder.News(), Tokens: p.traced}
}

// record is the whole trace of a request that has ended: what a replay runs again. After a stream it is without the layers
// of the tokens, which the events had.
func (g *generation) record() (*replay.Record, error) {
	s := &g.s.service
	r, err := g.recorder.Finish(replay.Record{Model: s.id, Digest: s.digest, Class: s.class(), Router: s.routerName(), Routing: s.routing})
	if err != nil || !g.want.Stream {
		return r, err
	}
	r = r.WithoutLayers()
	return r, r.Seal()
}

// tracedForm is how a record names the form of an answer.
func tracedForm(want *openai.Request) *replay.Form {
	calls := want.ToolChoice.Mode == openai.ToolsRequired || want.ToolChoice.Mode == openai.ToolNamed
	if calls || want.ToolChoice.Mode == openai.ToolsAuto && want.Format != nil {
		return &replay.Form{Kind: replay.Tools}
	}
	if want.Format == nil {
		return nil
	}
	return &replay.Form{Kind: string(want.Format.Kind), Text: want.Format.Text, Schema: want.Format.Schema}
}
