package team_test

import (
	"testing"

	"github.com/pimoe/pimoe/backends/team"
)

type nothing struct{}

func (*nothing) Run(int, int) {}

// BenchmarkDo is what it costs to work together: tasks of two pieces with nothing to do, one after the other.
func BenchmarkDo(b *testing.B) {
	p := team.NewPool(2, team.Options{})
	defer p.Close()
	t, task := p.Team(), new(nothing)
	b.ReportAllocs()
	for b.Loop() {
		t.Do(2, task)
	}
}
