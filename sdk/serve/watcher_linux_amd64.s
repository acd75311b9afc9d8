#include "textflag.h"

// func(DI signal, SI *siginfo_t, DX context): nanosleep(&restTime, NULL) if info.si_code is SI_TKILL. To return from it is to
// come to restReturn.
TEXT rest<>(SB), NOSPLIT|NOFRAME, $0
	CMPL 8(SI), $-6
	JNE  awake
	LEAQ ·restTime(SB), DI
	XORL SI, SI
	MOVL $35, AX
	SYSCALL

awake:
	RET

// rt_sigreturn()
TEXT restReturn<>(SB), NOSPLIT|NOFRAME, $0
	MOVL $15, AX
	SYSCALL
	INT  $3

// func restAddresses() (handler, restorer uintptr)
TEXT ·restAddresses(SB), NOSPLIT, $0-16
	LEAQ rest<>(SB), AX
	MOVQ AX, handler+0(FP)
	LEAQ restReturn<>(SB), AX
	MOVQ AX, restorer+8(FP)
	RET
