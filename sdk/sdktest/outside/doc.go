// Package outside holds a test that is an outsider: it makes a Go module of its own that imports only the serving half
// of the sdk, builds it without a network and runs the conformance suite on the result. There is nothing to import.
package outside
