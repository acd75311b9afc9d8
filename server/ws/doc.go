// Package ws is the protocol of /ws without sockets: what messages look like (Parse, Append, Split, Join), what a
// connection may do at which time (State), what waits to be written to it (Outbox), which connections hear of which
// topic (Broker), and answers that outlive the connection that asked for them (Journal, Store).
//
// server drives it: it reads and writes the sockets, asks who somebody is and runs the model. Nothing here blocks, starts
// a goroutine or looks at a clock: time is an argument, and a full buffer is an error, so that a slow reader can't hold up
// whoever produces. The package refuses to know HTTP frameworks, credentials and how an answer is computed.
package ws
