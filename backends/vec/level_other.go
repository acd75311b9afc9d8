//go:build !amd64

package vec

func siluMul(dst, gate, up []float32)     { siluMulGeneric(dst, gate, up) }
func geluTanhMul(dst, gate, up []float32) { geluTanhMulGeneric(dst, gate, up) }
