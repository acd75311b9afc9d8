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
	"github.com/pimoe/pimoe/server/logging/mask"
)

// LevelTrace is below slog.LevelDebug by the distance that slog's own levels have.
const LevelTrace = slog.LevelDebug - 4

// New makes a logger that writes to w. terminal says whether w is one, for the format "auto", and color whether it may
// be coloured. The secrets, and what c.Mask names, are in no record.
func New(w io.Writer, c config.Log, terminal, color bool, secrets ...string) *slog.Logger {
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
	return slog.New(&handler{sink: hclog.New(o), mask: mask.New(c.Mask, secrets...)})
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
	mask   *mask.Masker
	prefix string // of open groups, with a dot at the end
	args   []any  // of WithAttrs, as hclog's alternating keys and values
}

// Enabled reports whether the sink writes records of a level.
func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return h.sink.GetLevel() <= level(l) }

// Handle writes one record.
func (h *handler) Handle(_ context.Context, r slog.Record) error {
	args := slices.Clip(h.args)
	r.Attrs(func(a slog.Attr) bool {
		args = h.appendAttr(args, h.prefix, a)
		return true
	})
	h.sink.Log(level(r.Level), h.clean(r.Message), args...)
	return nil
}

// WithAttrs returns a handler that adds the attributes to every record.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.args = slices.Clip(h.args)
	for _, a := range attrs {
		out.args = h.appendAttr(out.args, h.prefix, a)
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
func (h *handler) appendAttr(args []any, prefix string, a slog.Attr) []any {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, sub := range v.Group() {
			args = h.appendAttr(args, prefix, sub)
		}
		return args
	}
	if a.Equal(slog.Attr{}) {
		return args
	}
	return append(args, h.clean(prefix+a.Key), h.plain(v))
}

// plain is a value that both formats print on one line.
func (h *handler) plain(v slog.Value) any {
	switch v.Kind() {
	case slog.KindString, slog.KindDuration, slog.KindTime:
		return h.clean(v.String())
	case slog.KindAny:
		switch x := v.Any().(type) {
		case error:
			return h.clean(x.Error())
		case fmt.Stringer:
			return h.clean(x.String())
		case []byte:
			return h.clean(string(x))
		default:
			return h.clean(fmt.Sprint(x))
		}
	}
	return v.Any()
}

// clean is a text without secrets that stays on its line.
func (h *handler) clean(s string) string { return escape(h.mask.Text(s)) }

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
