#include "textflag.h"

// The handler of the signal that has the runtime's watcher rest. It runs on whatever stack the thread has for signals, without
// a goroutine: it may only make a system call.

// restTime is 1.95 s as a struct timespec: a little less than the time between two heartbeats.
DATA restTime<>+0(SB)/8, $1
DATA restTime<>+8(SB)/8, $950000000
GLOBL restTime<>(SB), RODATA, $16

// func(R0 signal, R1 *siginfo_t, R2 context): nanosleep(&restTime, NULL) if info.si_code is SI_TKILL. To return from it is to
// come to the kernel's own code, which returns from the signal.
TEXT rest<>(SB), NOSPLIT|NOFRAME, $0
	MOVW 8(R1), R3
	CMPW $-6, R3
	BNE  awake
	MOVD $restTime<>(SB), R0
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
