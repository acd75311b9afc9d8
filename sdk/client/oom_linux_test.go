package client

import (
	"testing"
	"time"
)

// A kill for memory is remembered for one to two looks, then it is old news.
func TestOOMCount(t *testing.T) {
	now, kills := time.Unix(1000, 0), uint64(7)
	o := oom{count: func() uint64 { return kills }, now: func() time.Time { return now }}
	if o.rose() {
		t.Error("rose before the first look")
	}
	o.look()
	if o.rose() {
		t.Error("rose without a kill")
	}
	kills++
	if !o.rose() {
		t.Error("a kill after the first look is not seen")
	}
	now = now.Add(2 * time.Second)
	o.look() // by chance between the kill and the end of the process
	if !o.rose() {
		t.Error("a look in between hides the kill")
	}
	for range 3 {
		now = now.Add(2 * time.Second)
		o.look()
	}
	if o.rose() {
		t.Error("an old kill is blamed")
	}
	kills++
	for range 5 { // looks in a row count once a second
		o.look()
	}
	if !o.rose() {
		t.Error("looks in a row hide the kill")
	}
}
