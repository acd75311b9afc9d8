// Package server is the HTTP edge of the host: a public listener with the OpenAI-compatible and the native API, and an
// admin listener on loopback. It copies every request out of Fiber before anything else sees it, watches the socket of
// each running request so that a client that goes away frees its slot, and turns every error into one of two shapes
// (OpenAI's on /v1, RFC 9457 elsewhere) with a stable code, the request's id and nothing of the inside.
//
// server/cmd/pimoe makes a Server from an opened instance, calls Run, and closes both. The package refuses to listen
// beyond loopback without an API key, to serve the admin routes there at all, and to know how tokens are computed.
//
// WebSockets are gofiber/contrib/websocket's connections, but upgraded by fasthttp/websocket below it. The handler that contrib's New
// makes runs inside fasthttp's hijack, and the upgrader gives the connection's write buffer back to a pool when the handler returns. So
// the handler would have to stay, and with it the request's context, fasthttp's 16 KiB reader and five maps of the request: 29 KiB
// a connection as against 5, measured with the same buffers. It would also see only the first of several Connection headers, and what
// a client has sent before the answer, which is refused here, would be read as frames. Errors are compared with those of
// fasthttp/websocket: contrib has variables of the same names that nothing returns.
package server
