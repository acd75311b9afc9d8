//go:build !unix

package main

// keepNoCores has nothing to do: this platform's pictures of the memory are a matter of its own settings.
func keepNoCores() error { return nil }
