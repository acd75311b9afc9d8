#include "textflag.h"

// func watch(word *uint32, old, looks uint32) uint32
TEXT ·watch(SB), NOSPLIT, $0-20
	MOVQ word+0(FP), DI
	MOVL old+8(FP), CX
	MOVL looks+12(FP), DX

look:
	MOVL (DI), AX
	CMPL AX, CX
	JNE  done
	SUBL $1, DX
	JLE  done
	PAUSE
	JMP  look

done:
	MOVL AX, ret+16(FP)
	RET
