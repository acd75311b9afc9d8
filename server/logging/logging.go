// Package logging joins the program's slog loggers to one hclog sink, as console lines or JSON on standard error. What
// plugins say arrives here as records like all others, tagged with their process by core/host, so that host and
// plugins share one format, one level and one lock on the output.
//
// server/cmd/pimoe uses it. It refuses to be global, to rotate files and to let a value forge a line: control
// characters are escaped in both formats.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/go-hclog"

	"github.com/pimoe/pimoe/core/config"
)

// LevelTrace is below slog.LevelDebug by the distance that slog's own levels have.
const LevelTrace = slog.LevelDebug - 4

// New makes a logger that writes to w. terminal says whether w is one, for the format "auto", and color whether it may
// be coloured.
func New(w io.Writer, c config.Log, terminal, color bool) *slog.Logger {
	o := &hclog.LoggerOptions{
		Name: "pimoe", Level: hclog.LevelFromString(c.Level), Output: w,
		JSONFormat: c.Format == "json" || c.Format == "auto" && !terminal,
		TimeFormat: "2006-01-02T15:04:05.000Z0700", TimeFn: func() time.Time { return time.Now().UTC() },
	}
	if color && !o.JSONFormat {
		o.Color, o.ColorHeaderOnly = hclog.ForceColor, true
	}
	if o.Level == hclog.NoLevel {
		o.Level = hclog.Info
	}
	return slog.New(&handler{sink: hclog.New(o)})
}

// SetLevel changes the least level that a logger of New writes, and those made of it.
func SetLevel(l *slog.Logger, name string) {
	if h, ok := l.Handler().(*handler); ok {
		h.sink.SetLevel(hclog.LevelFromString(name))
	}
}

// handler passes records on to an hclog logger.
type handler struct {
	sink   hclog.Logger
	prefix string // of open groups, with a dot at the end
	args   []any  // of WithAttrs, as hclog's alternating keys and values
}

// Enabled reports whether the sink writes records of a level.
func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return h.sink.GetLevel() <= level(l) }

// Handle writes one record.
func (h *handler) Handle(_ context.Context, r slog.Record) error {
	args := slices.Clip(h.args)
	r.Attrs(func(a slog.Attr) bool {
		args = appendAttr(args, h.prefix, a)
		return true
	})
	h.sink.Log(level(r.Level), escape(r.Message), args...)
	return nil
}

// WithAttrs returns a handler that adds the attributes to every record.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.args = slices.Clip(h.args)
	for _, a := range attrs {
		out.args = appendAttr(out.args, h.prefix, a)
	}
	return &out
}

// WithGroup returns a handler that puts name and a dot before the keys that follow.
func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	out := *h
	out.prefix += name + "."
	return &out
}

// appendAttr flattens an attribute to keys and values; the empty attribute is left out, as slog asks.
func appendAttr(args []any, prefix string, a slog.Attr) []any {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, sub := range v.Group() {
			args = appendAttr(args, prefix, sub)
		}
		return args
	}
	if a.Equal(slog.Attr{}) {
		return args
	}
	return append(args, escape(prefix+a.Key), plain(v))
}

// plain is a value that both formats print on one line.
func plain(v slog.Value) any {
	switch v.Kind() {
	case slog.KindString, slog.KindDuration, slog.KindTime:
		return escape(v.String())
	case slog.KindAny:
		switch x := v.Any().(type) {
		case error:
			return escape(x.Error())
		case fmt.Stringer:
			return escape(x.String())
		case []byte:
			return escape(string(x))
		default:
			return escape(fmt.Sprint(x))
		}
	}
	return v.Any()
}

// escape makes control characters, line separators and invalid bytes visible.
func escape(s string) string {
	if strings.IndexFunc(s, hostile) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hostile(r) {
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func hostile(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }

func level(l slog.Level) hclog.Level {
	switch {
	case l < slog.LevelDebug:
		return hclog.Trace
	case l < slog.LevelInfo:
		return hclog.Debug
	case l < slog.LevelWarn:
		return hclog.Info
	case l < slog.LevelError:
		return hclog.Warn
	}
	return hclog.Error
}

var _ slog.Handler = (*handler)(nil)
