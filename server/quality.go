package server

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/server/openai"
)

// statusStreamed is in the header of a stream that may turn out exact or not: its events say which. The header has left
// before the first token is computed.
const statusStreamed = "streamed"

// acceptOf reads the header pimoe-accept, by which a request takes less than the server's policy gives, never more.
func acceptOf(header string) (moe.Accept, error) {
	switch header {
	case "":
		return moe.AcceptAny, nil
	case engine.StatusExact:
		return moe.AcceptExact, nil
	}
	return 0, &fault{status: http.StatusBadRequest, code: "invalid_header", message: "pimoe-accept: expected exact, or no such header", param: "pimoe-accept"}
}

// worse joins the qualities of two parts of one answer.
func worse(a, b engine.Quality) engine.Quality {
	return engine.Quality{Kinds: a.Kinds | b.Kinds, Layers: max(a.Layers, b.Layers), Dropped: max(a.Dropped, b.Dropped)}
}

// disclosure says in headers what computed the answer; programs are the digests of the plugins, as far as they are known.
func (s *Server) disclosure(q engine.Quality, programs string) map[string]string {
	h := map[string]string{
		"Pimoe-Status": q.Status(), "Pimoe-Model-Digest": s.service.digest, "Pimoe-Numeric-Class": s.service.classOf(q),
	}
	if q.Status() == engine.StatusDegraded { // sums only: which experts a prompt chooses tells of the prompt
		h["Pimoe-Degraded"] = fmt.Sprintf("policy=%s; layers=%d; max-dropped-mass=%.2f", q.Policy(), q.Layers, q.Dropped)
	}
	if programs != "" {
		h["Pimoe-Plugins"] = programs
	}
	if s.service.routing != "" {
		h["Pimoe-Routing"] = s.service.routing
	}
	return h
}

// promise is disclosure for a stream, before anything is known.
func (s *Server) promise(r *request) map[string]string {
	h := s.disclosure(engine.Quality{}, "")
	if s.streamed(r) {
		h["Pimoe-Status"] = statusStreamed
	}
	return h
}

// streamed reports whether the status of a stream is in its events.
func (s *Server) streamed(r *request) bool { return s.service.lenient && r.take != moe.AcceptExact }

// meta is what a body says of what computed it.
func (s *Server) meta(q engine.Quality) *openai.Meta {
	m := &openai.Meta{Status: q.Status(), Policy: q.Policy(), Layers: q.Layers, ModelDigest: s.service.digest, NumericClass: s.service.classOf(q)}
	if m.Status == engine.StatusDegraded {
		m.MaxDroppedMass = &q.Dropped
	}
	return m
}

// classOf is the numeric classes that an answer can have been computed in.
func (s *service) classOf(q engine.Quality) string {
	if q.Kinds.Has(moe.Fallback) && s.standby != "" {
		return s.class() + "," + s.standby
	}
	return s.class()
}

// classNames joins the names of numeric classes, each once, leaving out what another list has.
func classNames(list, without []string) string {
	var out []string
	seen := map[string]bool{"": true}
	for _, c := range without {
		seen[c] = true
	}
	for _, c := range list {
		if !seen[c] {
			out = append(out, c)
		}
		seen[c] = true
	}
	return strings.Join(out, ",")
}
