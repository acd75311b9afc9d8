// Package wire turns the contracts' plain Go values into what travels, and back, in one place for both directions and
// both transports: protobuf messages for gRPC and slot payloads for the shared-memory plane.
//
// sdk/serve and sdk/client use it. Whatever it reads was written by another process, so it checks before it believes:
// shapes against the call that was made, values for being finite. It refuses to know how bytes get to the other side.
package wire

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/plane"
)

// classes is the one table between error classes, gRPC codes and the plane's status words. A status word is an index
// plus one, so the order is part of the protocol; new classes go to the end.
var classes = []struct {
	err  error
	code codes.Code
}{
	{errors.New("error"), codes.Unknown}, // no class
	{sdk.ErrInvalid, codes.InvalidArgument},
	{sdk.ErrNotFound, codes.NotFound},
	{sdk.ErrOverloaded, codes.ResourceExhausted},
	{sdk.ErrUnavailable, codes.Unavailable},
	{sdk.ErrUnsupported, codes.Unimplemented},
	{sdk.ErrInvalidOutput, codes.DataLoss},
	{sdk.ErrDeadline, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded}, // read back as sdk.ErrDeadline
}

// remote is an error of the other process: its whole text, and its class for errors.Is.
type remote struct {
	text  string
	class error
}

func (e *remote) Error() string { return e.text }
func (e *remote) Unwrap() error { return e.class }

func classOf(err error) int {
	for i, c := range classes[1:] {
		if errors.Is(err, c.err) {
			return i + 1
		}
	}
	return 0
}

func revive(class int, text string) error {
	if class == 0 {
		return errors.New(text)
	}
	if text == "" {
		return classes[class].err
	}
	return &remote{text: text, class: classes[class].err}
}

// ToStatus makes a gRPC status of an error; nil stays nil.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(classes[classOf(err)].code, err.Error())
}

// FromStatus is ToStatus's way back.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for i, c := range classes {
		if c.code == s.Code() {
			return revive(i, s.Message())
		}
	}
	return fmt.Errorf("%s: %s", s.Code(), s.Message())
}

// ToReply makes an answer of the plane out of an error; nil gives success.
func ToReply(err error) plane.Reply {
	if err == nil {
		return plane.Reply{}
	}
	return plane.Reply{Status: uint32(classOf(err)) + 1, Message: err.Error()}
}

// FromReply is ToReply's way back.
func FromReply(r plane.Reply) error {
	switch {
	case r.Status == 0:
		return nil
	case r.Status > uint32(len(classes)):
		return fmt.Errorf("status %d: %w", r.Status, sdk.ErrInvalidOutput)
	}
	class := int(r.Status) - 1
	if classes[class].err == context.DeadlineExceeded {
		return &remote{text: r.Message, class: sdk.ErrDeadline}
	}
	return revive(class, r.Message)
}

// FromContext gives the error of an ended context its class: a deadline that has passed is sdk.ErrDeadline.
func FromContext(err error) error {
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, sdk.ErrDeadline) {
		return fmt.Errorf("%w: %w", sdk.ErrDeadline, err)
	}
	return err
}
