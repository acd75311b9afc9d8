#include "textflag.h"

// A value is not finite if all bits of its exponent are set. Each value is loaded once, into a register that is both
// stored and judged.

// func copyFiniteAVX2(dst, src *float32, n int) bool
TEXT ·copyFiniteAVX2(SB), NOSPLIT, $0-25
	MOVQ         dst+0(FP), DI
	MOVQ         src+8(FP), SI
	MOVQ         n+16(FP), CX
	MOVL         $0x7f800000, AX
	MOVQ         AX, X0
	VPBROADCASTD X0, Y0
	VPXOR        Y1, Y1, Y1
	VPXOR        Y2, Y2, Y2

loop:
	VMOVDQU  (SI), Y3
	VMOVDQU  32(SI), Y4
	VMOVDQU  Y3, (DI)
	VMOVDQU  Y4, 32(DI)
	VPAND    Y0, Y3, Y3
	VPAND    Y0, Y4, Y4
	VPCMPEQD Y0, Y3, Y3
	VPCMPEQD Y0, Y4, Y4
	VPOR     Y3, Y1, Y1
	VPOR     Y4, Y2, Y2
	ADDQ     $64, SI
	ADDQ     $64, DI
	SUBQ     $16, CX
	JNZ      loop
	VPOR     Y1, Y2, Y1
	VPTEST   Y1, Y1
	SETEQ    ret+24(FP)
	VZEROUPPER
	RET
