//go:build !linux

package serve

func quietWatcher() {}
