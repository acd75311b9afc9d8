// Package replay is the record of an answer: what was asked, token by token what came, which experts computed it and in
// which processes. A Record is the trace that the API gives to the owner of a request, and the file that `pimoe generate
// --record` writes and `pimoe replay` runs again: the same prompt ids, sampling parameters and seed on the same model give
// the same tokens, and Compare says what is different where they do not.
//
// package server makes Records, server/cmd/pimoe compares them. The package is a function of values: it refuses to know
// how tokens are computed, and files that were changed after they were written.
package replay
