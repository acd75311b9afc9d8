#include "textflag.h"

// func watch(word *uint32, old, looks uint32) uint32
TEXT ·watch(SB), NOSPLIT, $0-20
	MOVD  word+0(FP), R0
	MOVWU old+8(FP), R1
	MOVWU looks+12(FP), R2

look:
	LDARW (R0), R3
	CMPW  R3, R1
	BNE   done
	SUBSW $1, R2, R2
	BLE   done
	YIELD
	JMP   look

done:
	MOVW R3, ret+16(FP)
	RET
