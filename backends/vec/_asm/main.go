// Command asm writes the assembly of package vec: go run . -out ../kernels_amd64.s -stubs ../stubs_amd64.go -pkg vec
package main

import . "github.com/mmcloughlin/avo/build"

func main() {
	ConstraintExpr("amd64")
	for _, m := range machines {
		m.activations()
	}
	Generate()
}
