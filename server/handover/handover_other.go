//go:build !linux

package handover

import (
	"fmt"
	"log/slog"
	"runtime"

	"github.com/pimoe/pimoe/sdk"
)

var errNone = fmt.Errorf("a host can't be handed over on %s: %w", runtime.GOOS, sdk.ErrUnsupported)

// Offer exists so that callers compile; here it is never taken.
type Offer struct{}

// New offers nothing, which only a successor would miss.
func New(string, []Listener, *slog.Logger) (*Offer, error) { return &Offer{}, nil }

// Taken is never closed.
func (*Offer) Taken() <-chan struct{} { return nil }

// Close has nothing to end.
func (*Offer) Close() error { return nil }

// Successor exists so that callers compile; Dial refuses to make one.
type Successor struct{}

// Dial refuses.
func Dial(string) (*Successor, error) { return nil, errNone }

// Take refuses.
func (*Successor) Take() ([]Listener, error) { return nil, errNone }

// Serving refuses.
func (*Successor) Serving() error { return errNone }

// Close has nothing to end.
func (*Successor) Close() error { return nil }
