// Package clienttest runs the official OpenAI clients for Python and JavaScript and Triton's for Python against a live server: models,
// completions, chat, responses, embeddings, traces, streams and error cases, with the clients' own types and exceptions;
// LangChain's library for the same API; WebSockets with the library websockets; the examples of docs/clients.md; and logins at a
// real OpenID Connect provider. It has no code of its own.
//
// setup.sh installs clients and provider into .cache/clients at pinned versions; without it the tests are skipped and say so.
// The package refuses to be linked into a program.
package clienttest
