package memory

import (
	"os"
	"testing"
)

// Memory that this process touches is its own.
func TestPrivate(t *testing.T) {
	before := Private([]int{os.Getpid(), 1 << 30})
	mine := make([]byte, 32<<20)
	for i := range mine {
		mine[i] = byte(i)
	}
	if grown := Private([]int{os.Getpid()}) - before; grown < 24<<20 || grown > 200<<20 {
		t.Errorf("%d bytes more", grown)
	}
	mine[0] = mine[1]
}
