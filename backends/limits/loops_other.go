//go:build !amd64

package limits

func fma(Level) (loop func(int), flops int)  { return fmaGeneric, 2 * 4 }
func vnni() (loop func(int), ops int)        { return nil, 0 }
func bf16dot() (loop func(int), flops int)   { return nil, 0 }
func int8tiles() (loop func(int), ops int)   { return nil, 0 }
func bf16tiles() (loop func(int), flops int) { return nil, 0 }
func read4(b []byte, at, stride, n int)      { readGeneric(b, at, stride, n) }
