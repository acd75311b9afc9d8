package host

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// pluginLog passes a plugin's lines on as log records. A line in the JSON of slog or hclog keeps its level, message and
// fields; any other is a message. What a plugin writes is data: control characters are escaped, and its fields stand in
// a group of their own, so that it can forge neither a terminal's state nor a record of the host.
func pluginLog(log *slog.Logger) func(line string) {
	return func(line string) {
		level, message, fields := parseLine(line)
		attrs := make([]any, 0, len(fields))
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			attrs = append(attrs, slog.String(escape(key), escape(fields[key])))
		}
		log.LogAttrs(context.Background(), level, escape(message), slog.Group("plugin", attrs...))
	}
}

// parseLine reads one line of JSON as slog (time, level, msg) or hclog (@timestamp, @level, @message) write it.
func parseLine(line string) (slog.Level, string, map[string]string) {
	var record map[string]any
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &record) != nil {
		return slog.LevelInfo, line, nil
	}
	for _, names := range [][3]string{{"level", "msg", "time"}, {"@level", "@message", "@timestamp"}} {
		message, ok := record[names[1]].(string)
		if !ok {
			continue
		}
		level, _ := record[names[0]].(string)
		for _, n := range names {
			delete(record, n)
		}
		fields := map[string]string{}
		for k, v := range record {
			if s, ok := v.(string); ok {
				fields[k] = s
			} else {
				fields[k] = fmt.Sprint(v)
			}
		}
		return levels[strings.ToLower(level)], message, fields
	}
	return slog.LevelInfo, line, nil
}

// levels are the words of slog and hclog; a word that is missing here is the zero level, info.
var levels = map[string]slog.Level{"trace": slog.LevelDebug - 4, "debug": slog.LevelDebug, "warn": slog.LevelWarn, "error": slog.LevelError}

// escape makes text harmless: control characters, line separators and invalid bytes become visible escapes.
func escape(text string) string {
	if strings.IndexFunc(text, hostile) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
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
