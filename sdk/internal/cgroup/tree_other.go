//go:build !linux

package cgroup

import "errors"

// Tree exists so that callers compile; Open refuses to make one.
type Tree struct{}

// Group exists so that callers compile.
type Group struct{}

var errNone = errors.New("this system has no cgroups")

// Open refuses.
func Open() (*Tree, error) { return nil, errNone }

// New refuses.
func (*Tree) New(Limits) (*Group, error) { return nil, errNone }

// Killed knows of nothing.
func (*Group) Killed() (killed, limit bool) { return false, false }

// Close has nothing to free.
func (*Group) Close() error { return nil }
