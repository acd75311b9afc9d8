package tracing

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// maxState bounds a tracestate that is taken over: what W3C Trace Context asks everybody to carry.
const maxState = 512

// Parent is what a client says of the trace that its request belongs to; the zero value says nothing.
type Parent struct {
	trace.SpanContext
}

// ParseParent reads the headers traceparent and tracestate of W3C Trace Context. What is not exactly in their form counts
// as not sent, as the standard asks: nobody is refused for it.
func ParseParent(traceparent, tracestate string) Parent {
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	h := traceparent
	if len(h) < length || h[2] != '-' || h[35] != '-' || h[52] != '-' {
		return Parent{}
	}
	version, ok := byteOf(h[:2])
	if !ok || version == 0xff || version == 0 && len(h) != length || len(h) > length && h[length] != '-' || len(h) > maxState {
		return Parent{}
	}
	var c trace.SpanContextConfig
	flags, ok := byteOf(h[53:55])
	if !ok || !lowerHex(c.TraceID[:], h[3:35]) || !lowerHex(c.SpanID[:], h[36:52]) || !c.TraceID.IsValid() || !c.SpanID.IsValid() {
		return Parent{}
	}
	c.TraceFlags, c.Remote = trace.TraceFlags(flags)&trace.FlagsSampled, true
	if len(tracestate) <= maxState {
		if s, err := trace.ParseTraceState(tracestate); err == nil {
			c.TraceState = s
		}
	}
	return Parent{trace.NewSpanContext(c)}
}

func byteOf(s string) (byte, bool) {
	var b [1]byte
	ok := lowerHex(b[:], s)
	return b[0], ok
}

// lowerHex decodes exactly len(to) bytes; upper-case digits are not in the form.
func lowerHex(to []byte, s string) bool {
	if len(s) != 2*len(to) || s != strings.ToLower(s) {
		return false
	}
	_, err := hex.Decode(to, []byte(s))
	return err == nil
}

// format is a traceparent.
func format(t trace.TraceID, s trace.SpanID, sampled bool) string {
	flags := "00"
	if sampled {
		flags = "01"
	}
	return "00-" + t.String() + "-" + s.String() + "-" + flags
}

// newTraceID and newSpanID are random and not zero. They name things and protect nothing.
func newTraceID() (id trace.TraceID) {
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64()|1)
	return id
}

func newSpanID() (id trace.SpanID) {
	binary.NativeEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}
