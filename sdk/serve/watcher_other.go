//go:build !linux || !(amd64 || arm64)

package serve

type watcher struct{}

func findWatcher() watcher { return watcher{} }

func (watcher) rest() {}
