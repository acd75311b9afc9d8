// Package sdk holds what every PiMoE plugin and the host agree on before any tensor moves: what a plugin says of
// itself (Info) and the handful of error classes that a caller acts on.
//
// Plugin authors, the host and sdk/client use it. It refuses to know about models, processes or transports: those
// live in sdk/expert, sdk/router, sdk/serve and sdk/client.
package sdk

import "errors"

// The error classes. Wrap one with %w to say what failed and with which object; callers decide with errors.Is. Each
// crosses the process boundary as one gRPC code and the HTTP edge as one status.
var (
	// ErrInvalid: the caller's input is wrong and will stay wrong. Never retried, never counted against a replica.
	ErrInvalid = errors.New("invalid input")
	// ErrNotFound: the named thing does not exist.
	ErrNotFound = errors.New("not found")
	// ErrOverloaded: a bounded queue or budget is full; try again later.
	ErrOverloaded = errors.New("overloaded")
	// ErrUnavailable: a process or a dependency is gone or not ready; another replica or a later try may answer.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnsupported: understood, but this build, plugin or machine can't do it.
	ErrUnsupported = errors.New("unsupported")
	// ErrInvalidOutput: a plugin answered with a wrong shape, a stale generation or a value that is not finite.
	ErrInvalidOutput = errors.New("invalid plugin output")
	// ErrDeadline: the request's own deadline has passed.
	ErrDeadline = errors.New("deadline exceeded")
)

// Kind says which contract a plugin serves.
type Kind string

// The two kinds of plugins.
const (
	KindRouter Kind = "router" // sdk/router
	KindExpert Kind = "expert" // sdk/expert
)

// CapLoadDependent is the capability of a router whose answer for a row depends on other rows or on load. Its answers
// are marked "routing: load-dependent" and never cached.
const CapLoadDependent = "load-dependent"

// CapOwnFunction is the capability of an expert that computes something else than the gated feed-forward block of
// package expert. The conformance suite then doesn't compare its answers with that block's; everything else still holds.
const CapOwnFunction = "own-function"

// CapPacking, followed by the name of a packing of package backends/pack, is the capability of an expert that takes weights
// in that layout: tensor.View.Packing names it, and the bytes are laid out for the plugin's kernels, aligned to 64 bytes.
// An expert without it is given row-major weights only.
const CapPacking = "packing:"

// CapGRPCOnly is the capability of a plugin that leaves the shared memory alone: its tensors travel over gRPC, whatever the
// host prefers. It is a plugin in another language whose author has not taken the trouble.
const CapGRPCOnly = "grpc-only"

// CapDevices is the capability of an expert that tells of devices which compute for it (expert.Reporting). sdk/serve declares it
// for whoever implements that; only such plugins are asked.
const CapDevices = "devices"

// Info is what a plugin says of itself. The host shows it and checks it; it trusts none of it for safety.
type Info struct {
	Name         string   // short name: the NAME of pimoe-router-NAME or pimoe-expert-NAME
	Kind         Kind     // which contract
	Version      string   // the plugin's own version, free text
	NumericClass string   // arithmetic of an expert after Load, such as "bf16w-f32"; empty for routers
	Capabilities []string // such as CapLoadDependent; unknown ones are ignored
}

// Has reports whether the plugin declares a capability.
func (i Info) Has(capability string) bool {
	for _, c := range i.Capabilities {
		if c == capability {
			return true
		}
	}
	return false
}
