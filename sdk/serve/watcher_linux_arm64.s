#include "textflag.h"

// func(R0 signal, R1 *siginfo_t, R2 context): nanosleep(&restTime, NULL) if info.si_code is SI_TKILL. To return from it is to
// come to the kernel's own code, which returns from the signal.
TEXT rest<>(SB), NOSPLIT|NOFRAME, $0
	MOVW 8(R1), R3
	CMPW $-6, R3
	BNE  awake
	MOVD $·restTime(SB), R0
	MOVD ZR, R1
	MOVD $101, R8
	SVC

awake:
	RET

// func restAddresses() (handler, restorer uintptr)
TEXT ·restAddresses(SB), NOSPLIT, $0-16
	MOVD $rest<>(SB), R0
	MOVD R0, handler+0(FP)
	MOVD ZR, restorer+8(FP)
	RET
