// Command asm writes the assembly of package vec: go run . -out ../kernels_amd64.s -stubs ../stubs_amd64.go -pkg vec
package main

import . "github.com/mmcloughlin/avo/build"

func main() {
	ConstraintExpr("amd64")
	for _, m := range machines {
		m.activations()
		m.rows()
		m.halves()
		for _, h := range []half{f32, bf16, f16} {
			m.scores(h)
			m.mix(h)
		}
	}
	Generate()
}
