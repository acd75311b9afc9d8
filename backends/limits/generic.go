package limits

import (
	"encoding/binary"
	"sync/atomic"
)

// sink keeps results alive.
var sink atomic.Uint64

func fmaGeneric(rounds int) {
	var a, b, c, d float32 = 1, 2, 3, 4
	for range rounds {
		a, b, c, d = a*0.5+1, b*0.5+1, c*0.5+1, d*0.5+1
	}
	sink.Add(uint64(a + b + c + d))
}

func readGeneric(b []byte, at, stride, n int) {
	var sum uint64
	s0, s1, s2, s3 := b[at:][:n], b[at+stride:][:n], b[at+2*stride:][:n], b[at+3*stride:][:n]
	for i := 0; i+8 <= n; i += 8 {
		sum += binary.LittleEndian.Uint64(s0[i:]) + binary.LittleEndian.Uint64(s1[i:]) +
			binary.LittleEndian.Uint64(s2[i:]) + binary.LittleEndian.Uint64(s3[i:])
	}
	sink.Add(sum)
}
