// Package server is the HTTP edge of the host: a public listener with the OpenAI-compatible and the native API, and an
// admin listener on loopback. It copies every request out of Fiber before anything else sees it, watches the socket of
// each running request so that a client that goes away frees its slot, and turns every error into one of two shapes
// (OpenAI's on /v1, RFC 9457 elsewhere) with a stable code, the request's id and nothing of the inside.
//
// server/cmd/pimoe makes a Server from an opened instance, calls Run, and closes both. The package refuses to listen
// beyond loopback without an API key, to serve the admin routes there at all, and to know how tokens are computed.
package server
