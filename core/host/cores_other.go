//go:build !linux

package host

// usableCores is empty: threads are not bound here.
func usableCores() []int { return nil }
