package host

import (
	"os"
	"time"

	"github.com/pimoe/pimoe/core/moe"
)

// This file says who has answered a call, to requests that ask for it.

// Note implements moe.Attributable.
func (p *groupCall) Note(to *moe.Answer) { p.noted = to }

// answer describes the process of a try that was answered.
func (g *group) answer(t try, took time.Duration, attempts int) moe.Answer {
	return moe.Answer{
		Group: g.spec.Name, Replica: t.replica, PID: t.inc.proc.PID(), Backend: g.spec.Backend, Class: t.inc.info.NumericClass,
		Program: t.inc.digest, Version: t.inc.info.Version, Attempts: attempts, Took: took,
	}
}

// Note implements moe.Attributable.
func (c *localCall) Note(to *moe.Answer) { c.noted = to }

// answer describes a group without a process of its own.
func (g *localGroup) answer(took time.Duration) moe.Answer {
	info := g.expert.Info()
	return moe.Answer{
		Group: g.spec.Name, PID: os.Getpid(), Backend: g.spec.Backend, Class: info.NumericClass, Version: info.Version,
		Attempts: 1, Took: took,
	}
}

var _ moe.Attributable = (*localCall)(nil)
