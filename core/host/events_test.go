package host

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk/client"
)

// What an operator will ask about is told once, not with every try: a crash loop is one event until its cause changes.
func TestEventsOfASupervisor(t *testing.T) {
	var told []string
	s := newSupervisor("e0/0", Options{
		StartTimeout: time.Minute, Metrics: metrics.New(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Event: func(e Event) { told = append(told, e.What+" "+e.Object) },
	}, newNotifier(), &fleet{children: newNotifier()}, nil)
	expect := func(when string, want ...string) {
		t.Helper()
		if !slices.Equal(told, want) {
			t.Errorf("%s: %q, want %q", when, told, want)
		}
		told = nil
	}
	untrusted := fmt.Errorf("%w: %w", errNotExecutable, &client.StartError{Path: "/p/x", Reason: client.ReasonUntrusted, Text: "other digest"})
	for range 3 {
		s.noteFailure(untrusted)
	}
	expect("an executable that is not the one", "plugin.refused e0/0")
	s.noteFailure(fmt.Errorf("%w: %w", errNotExecutable, &client.StartError{Path: "/p/x", Reason: client.ReasonMissing, Text: "gone"}))
	s.noteFailure(errors.New("it died before it answered")) // may mend itself
	expect("no executable", "process.failed e0/0")
	for range 3 {
		s.giveUp()
	}
	expect("a crash loop", "process.failed e0/0")
	for range 2 {
		s.bar("gave wrong answers")
	}
	expect("quarantine", "replica.quarantined e0/0")
	for range 2 {
		s.free()
	}
	expect("release", "replica.released e0/0")
}
