#include "textflag.h"

// Tile instructions, which Go's assembler does not know. Tiles 0 and 1 take the sums of a block's two groups, 2 and 3 those of the
// next block's; 4 and 5 hold activations (16 rows x 32 inputs), 6 and 7 weights (16 lines of 16 outputs x 2 inputs).
#define LDTILECFG_R15 BYTE $0xc4; BYTE $0xc2; BYTE $0x78; BYTE $0x49; BYTE $0x07 // ldtilecfg (R15)
#define TILERELEASE BYTE $0xc4; BYTE $0xe2; BYTE $0x78; BYTE $0x49; BYTE $0xc0 // tilerelease
#define TILEZERO_0 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xc0 // tilezero tmm0
#define TILEZERO_1 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xc8 // tilezero tmm1
#define TILEZERO_2 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xd0 // tilezero tmm2
#define TILEZERO_3 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xd8 // tilezero tmm3
#define TILELOADD_4 BYTE $0xc4; BYTE $0xc2; BYTE $0x7b; BYTE $0x4b; BYTE $0x24; BYTE $0x08 // tileloadd tmm4, 0(R8)(CX*1)
#define TILELOADD_5 BYTE $0xc4; BYTE $0xc2; BYTE $0x7b; BYTE $0x4b; BYTE $0xac; BYTE $0x08; LONG $1024 // tileloadd tmm5, 1024(R8)(CX*1)
#define TILELOADD_6 BYTE $0xc4; BYTE $0xc2; BYTE $0x7b; BYTE $0x4b; BYTE $0x34; BYTE $0x0a // tileloadd tmm6, 0(R10)(CX*1)
#define TILELOADD_7 BYTE $0xc4; BYTE $0xc2; BYTE $0x7b; BYTE $0x4b; BYTE $0xbc; BYTE $0x0a; LONG $1024 // tileloadd tmm7, 1024(R10)(CX*1)
#define TDPBF16PS_0_4_6 BYTE $0xc4; BYTE $0xe2; BYTE $0x4a; BYTE $0x5c; BYTE $0xc4 // tdpbf16ps tmm0, tmm4, tmm6
#define TDPBF16PS_1_5_7 BYTE $0xc4; BYTE $0xe2; BYTE $0x42; BYTE $0x5c; BYTE $0xcd // tdpbf16ps tmm1, tmm5, tmm7
#define TDPBF16PS_2_4_6 BYTE $0xc4; BYTE $0xe2; BYTE $0x4a; BYTE $0x5c; BYTE $0xd4 // tdpbf16ps tmm2, tmm4, tmm6
#define TDPBF16PS_3_5_7 BYTE $0xc4; BYTE $0xe2; BYTE $0x42; BYTE $0x5c; BYTE $0xdd // tdpbf16ps tmm3, tmm5, tmm7
#define TILESTORED_0 BYTE $0xc4; BYTE $0xe2; BYTE $0x7a; BYTE $0x4b; BYTE $0x04; BYTE $0x0b // tilestored 0(BX)(CX*1), tmm0
#define TILESTORED_1 BYTE $0xc4; BYTE $0xe2; BYTE $0x7a; BYTE $0x4b; BYTE $0x8c; BYTE $0x0b; LONG $1024 // tilestored 1024(BX)(CX*1), tmm1
#define TILESTORED_2 BYTE $0xc4; BYTE $0xe2; BYTE $0x7a; BYTE $0x4b; BYTE $0x94; BYTE $0x0b; LONG $2048 // tilestored 2048(BX)(CX*1), tmm2
#define TILESTORED_3 BYTE $0xc4; BYTE $0xe2; BYTE $0x7a; BYTE $0x4b; BYTE $0x9c; BYTE $0x0b; LONG $3072 // tilestored 3072(BX)(CX*1), tmm3

// The configuration: palette 1, bytes of a row at 16, rows at 48.
DATA amxConfig<>+0(SB)/8, $1
DATA amxConfig<>+8(SB)/8, $0
DATA amxConfig<>+16(SB)/8, $0x0040004000400040
DATA amxConfig<>+24(SB)/8, $0x0040004000400040
DATA amxConfig<>+32(SB)/8, $0
DATA amxConfig<>+40(SB)/8, $0
DATA amxConfig<>+48(SB)/8, $0x1010101010101010
DATA amxConfig<>+56(SB)/8, $0
GLOBL amxConfig<>(SB), RODATA|NOPTR, $64

// Constants: the sign of bytes, the low bytes of words, and shuffles that move the low bytes of words up and the high ones down.
DATA amxSign<>+0(SB)/4, $0x80808080
GLOBL amxSign<>(SB), RODATA|NOPTR, $4
DATA amxLow<>+0(SB)/4, $0x00ff00ff
GLOBL amxLow<>(SB), RODATA|NOPTR, $4
DATA amxUp<>+0(SB)/8, $0x0680048002800080
DATA amxUp<>+8(SB)/8, $0x0e800c800a800880
GLOBL amxUp<>(SB), RODATA|NOPTR, $16
DATA amxDown<>+0(SB)/8, $0x8007800580038001
DATA amxDown<>+8(SB)/8, $0x800f800d800b8009
GLOBL amxDown<>(SB), RODATA|NOPTR, $16

// Z23: sign; Z24, Z25 and Z26, Z27: the low and the high bytes of 0 to 127 as bfloat16; Z28: up; Z29: down; Z30: low.
#define CONSTANTS \
	VPBROADCASTD amxSign<>(SB), Z23 \
	VMOVDQU64 ·bf16Bytes+0(SB), Z24 \
	VMOVDQU64 ·bf16Bytes+64(SB), Z25 \
	VMOVDQU64 ·bf16Bytes+128(SB), Z26 \
	VMOVDQU64 ·bf16Bytes+192(SB), Z27 \
	VBROADCASTI32X4 amxUp<>(SB), Z28 \
	VBROADCASTI32X4 amxDown<>(SB), Z29 \
	VPBROADCASTD amxLow<>(SB), Z30

// WIDEN makes two lines of bfloat16 of a line of weights, 16 outputs x 4 inputs: of each output's inputs 0 and 2, then 1 and 3. It
// looks up the two bytes of the magnitude, puts the sign into the high one, and pairs them. These are instructions for the port
// that products of tiles leave idle.
#define WIDEN(line) \
	VPXORD line*64(R15), Z23, Z18 \
	VPABSB Z18, Z19 \
	VPABSB Z18, Z20 \
	VPERMI2B Z25, Z24, Z19 \
	VPERMI2B Z27, Z26, Z20 \
	VPTERNLOGD $0xf8, Z18, Z23, Z20 \
	VPSHUFB Z28, Z20, Z21 \
	VPSHUFB Z29, Z19, Z22 \
	VPTERNLOGD $0xf8, Z19, Z30, Z21 \
	VPTERNLOGD $0xf2, Z20, Z30, Z22 \
	VMOVDQA64 Z21, (2*line)*64(DI) \
	VMOVDQA64 Z22, (2*line+1)*64(DI)

// WIDEN_BLOCK widens the next block: from R15, past it, to DI, past it.
#define WIDEN_BLOCK \
	WIDEN(0) \
	WIDEN(1) \
	WIDEN(2) \
	WIDEN(3) \
	WIDEN(4) \
	WIDEN(5) \
	WIDEN(6) \
	WIDEN(7) \
	WIDEN(8) \
	WIDEN(9) \
	WIDEN(10) \
	WIDEN(11) \
	WIDEN(12) \
	WIDEN(13) \
	WIDEN(14) \
	WIDEN(15) \
	ADDQ $1088, R15 \
	ADDQ $2048, DI

// MULTIPLY_EVEN and MULTIPLY_ODD start the sums of a block.
#define MULTIPLY_EVEN \
	TILELOADD_4 \
	TILELOADD_6 \
	TILEZERO_0 \
	TDPBF16PS_0_4_6 \
	TILELOADD_5 \
	TILELOADD_7 \
	TILEZERO_1 \
	TDPBF16PS_1_5_7 \
	ADDQ $2048, R8 \
	ADDQ $2048, R10

#define MULTIPLY_ODD \
	TILELOADD_4 \
	TILELOADD_6 \
	TILEZERO_2 \
	TDPBF16PS_2_4_6 \
	TILELOADD_5 \
	TILELOADD_7 \
	TILEZERO_3 \
	TDPBF16PS_3_5_7 \
	ADDQ $2048, R8 \
	ADDQ $2048, R10

#define STORE_EVEN \
	TILESTORED_0 \
	TILESTORED_1

#define STORE_ODD \
	TILESTORED_2 \
	TILESTORED_3

// ROW adds a row's sums, at sums, times the scales of weights (Z16) and activations (at scale).
#define ROW(sums, scale, ACC) \
	VMULPS.BCST scale(DX), Z16, Z17 \
	VFMADD231PS sums(BX), Z17, ACC

// GROUP adds group g of a block, whose sums begin at sums.
#define PF(at) PREFETCHT0 at(R8)
#define GROUP(sums, g) \
	VPMOVZXWD (1024+32*g)(SI), Z16 \
	VPSLLD $16, Z16, Z16 \
	PF(4096+1024*g+0) \
	ROW(sums+64*0, 64*g+0, Z0) \
	PF(4096+1024*g+64) \
	ROW(sums+64*1, 64*g+4, Z1) \
	PF(4096+1024*g+128) \
	ROW(sums+64*2, 64*g+8, Z2) \
	PF(4096+1024*g+192) \
	ROW(sums+64*3, 64*g+12, Z3) \
	PF(4096+1024*g+256) \
	ROW(sums+64*4, 64*g+16, Z4) \
	PF(4096+1024*g+320) \
	ROW(sums+64*5, 64*g+20, Z5) \
	PF(4096+1024*g+384) \
	ROW(sums+64*6, 64*g+24, Z6) \
	PF(4096+1024*g+448) \
	ROW(sums+64*7, 64*g+28, Z7) \
	PF(4096+1024*g+512) \
	ROW(sums+64*8, 64*g+32, Z8) \
	PF(4096+1024*g+576) \
	ROW(sums+64*9, 64*g+36, Z9) \
	PF(4096+1024*g+640) \
	ROW(sums+64*10, 64*g+40, Z10) \
	PF(4096+1024*g+704) \
	ROW(sums+64*11, 64*g+44, Z11) \
	PF(4096+1024*g+768) \
	ROW(sums+64*12, 64*g+48, Z12) \
	PF(4096+1024*g+832) \
	ROW(sums+64*13, 64*g+52, Z13) \
	PF(4096+1024*g+896) \
	ROW(sums+64*14, 64*g+56, Z14) \
	PF(4096+1024*g+960) \
	ROW(sums+64*15, 64*g+60, Z15)

#define ADD(sums) \
	GROUP(sums, 0) \
	GROUP(sums+1024, 1) \
	ADDQ $1088, SI \
	ADDQ $128, DX

#define ADD_EVEN ADD(0)
#define ADD_ODD ADD(2048)

// EVEN and ODD are a whole step, group after group: a block is multiplied, the one before stored, the one before that added.
#define EVEN \
	TILELOADD_4 \
	TILELOADD_6 \
	TILEZERO_0 \
	TDPBF16PS_0_4_6 \
	TILESTORED_2 \
	GROUP(0, 0) \
	TILELOADD_5 \
	TILELOADD_7 \
	TILEZERO_1 \
	TDPBF16PS_1_5_7 \
	TILESTORED_3 \
	GROUP(1024, 1) \
	ADDQ $2048, R8 \
	ADDQ $2048, R10 \
	ADDQ $1088, SI \
	ADDQ $128, DX

#define ODD \
	TILELOADD_4 \
	TILELOADD_6 \
	TILEZERO_2 \
	TDPBF16PS_2_4_6 \
	TILESTORED_0 \
	GROUP(2048, 0) \
	TILELOADD_5 \
	TILELOADD_7 \
	TILEZERO_3 \
	TDPBF16PS_3_5_7 \
	TILESTORED_1 \
	GROUP(3072, 1) \
	ADDQ $2048, R8 \
	ADDQ $2048, R10 \
	ADDQ $1088, SI \
	ADDQ $128, DX

// MULTIPLES makes R12, R13 and R14 3, 5 and 7 times R11.
#define MULTIPLES \
	LEAQ (R11)(R11*2), R12 \
	LEAQ (R11)(R11*4), R13 \
	LEAQ (R12)(R11*4), R14

// OUTPUTS does something for each of the rows that there are: AX of them, from SI on.
#define OUTPUTS(do) \
	LEAQ (SI)(R11*8), DI \
	do(0, (SI), Z0) \
	do(1, (SI)(R11*1), Z1) \
	do(2, (SI)(R11*2), Z2) \
	do(3, (SI)(R12*1), Z3) \
	do(4, (SI)(R11*4), Z4) \
	do(5, (SI)(R13*1), Z5) \
	do(6, (SI)(R12*2), Z6) \
	do(7, (SI)(R14*1), Z7) \
	do(8, (DI), Z8) \
	do(9, (DI)(R11*1), Z9) \
	do(10, (DI)(R11*2), Z10) \
	do(11, (DI)(R12*1), Z11) \
	do(12, (DI)(R11*4), Z12) \
	do(13, (DI)(R13*1), Z13) \
	do(14, (DI)(R12*2), Z14) \
	do(15, (DI)(R14*1), Z15)

#define GET(r, at, Z) \
	CMPQ AX, $r \
	JLE 2(PC) \
	VMOVUPS at, Z

#define PUT(r, at, Z) \
	CMPQ AX, $r \
	JLE 2(PC) \
	VMOVUPS Z, at

// func amxRun(t *Tile, rows, panels int)
//
// Of each panel, the first 16 rows widen its weights, a block ahead of their use; the other rows find them.
//
// R8      tiles of activations                          R10       widened weights, to multiply
// BX      sums: [2 blocks][2 groups][16 rows][16]       R15, DI   weights, and where to widen them to
// CX      64                                            R11-R14   bytes from a row of outputs to the next, times 1, 3, 5, 7
// SI, DX  a block of weights, for its scales, and those of activations
//
// The frame is 64 bytes of variables, 4 KiB of sums, 16 KiB of widened weights and 64 bytes to begin at a line. The stack is
// checked before there are tiles, and nothing here can be preempted.
TEXT ·amxRun(SB), 0, $20608-24
	LEAQ amxConfig<>(SB), R15
	LDTILECFG_R15
	CONSTANTS
	MOVQ $64, CX
	LEAQ 63(SP), BX
	ANDQ $~63, BX
	MOVQ t+0(FP), AX
	MOVQ 0(AX), DX
	MOVQ DX, w-8(SP)     // the panel's weights
	MOVQ 48(AX), DX
	MOVQ DX, y-16(SP)    // the panel's outputs of row 0

panel:
	MOVQ t+0(FP), AX
	MOVQ 96(AX), R8
	MOVQ R8, a-32(SP)    // the rows' activations
	MOVQ 112(AX), DX
	MOVQ DX, s-40(SP)    // and their scales
	MOVQ y-16(SP), SI
	MOVQ SI, out-24(SP)  // the rows' outputs
	MOVQ rows+8(FP), DX
	MOVQ DX, rest-64(SP) // rows that are still to do

rows:
	VPXORD Z0, Z0, Z0
	VMOVDQA64 Z0, Z1
	VMOVDQA64 Z0, Z2
	VMOVDQA64 Z0, Z3
	VMOVDQA64 Z0, Z4
	VMOVDQA64 Z0, Z5
	VMOVDQA64 Z0, Z6
	VMOVDQA64 Z0, Z7
	VMOVDQA64 Z0, Z8
	VMOVDQA64 Z0, Z9
	VMOVDQA64 Z0, Z10
	VMOVDQA64 Z0, Z11
	VMOVDQA64 Z0, Z12
	VMOVDQA64 Z0, Z13
	VMOVDQA64 Z0, Z14
	VMOVDQA64 Z0, Z15
	MOVQ t+0(FP), R9
	CMPQ 72(R9), $0
	JEQ fresh
	MOVQ 56(R9), R11
	MULTIPLES
	MOVQ rest-64(SP), AX
	MOVQ out-24(SP), SI
	OUTPUTS(GET)

fresh:
	MOVQ 64(R9), R9      // blocks that are still to be multiplied
	MOVQ a-32(SP), R8
	MOVQ s-40(SP), DX
	MOVQ w-8(SP), SI
	LEAQ 4096(BX), R10
	MOVQ $1<<30, R15
	MOVQ R15, ahead-56(SP) // later rows widen no block
	MOVQ rows+8(FP), R15
	CMPQ R15, rest-64(SP)
	JNE multiply
	MOVQ $1, ahead-56(SP)  // the first ones do while more blocks than this are left
	MOVQ SI, R15
	MOVQ R10, DI
	WIDEN_BLOCK
	CMPQ R9, $1
	JEQ multiply
	WIDEN_BLOCK
	CMPQ R9, $2
	JEQ multiply
	WIDEN_BLOCK

multiply:
	MULTIPLY_EVEN
	DECQ R9
	JEQ last
	MULTIPLY_ODD
	STORE_EVEN

blocks:
	// A block is multiplied while the one before is stored and the one before that is added.
	DECQ R9
	JEQ lastOdd
	CMPQ R9, ahead-56(SP)
	JLE even
	WIDEN_BLOCK

even:
	EVEN
	DECQ R9
	JEQ lastEven
	CMPQ R9, ahead-56(SP)
	JLE odd
	WIDEN_BLOCK

odd:
	ODD
	JMP blocks

lastOdd:
	STORE_ODD
	ADD_EVEN
	ADD_ODD
	JMP put

lastEven:
	ADD_ODD

last:
	STORE_EVEN
	ADD_EVEN

put:
	MOVQ t+0(FP), R9
	MOVQ 56(R9), R11
	MULTIPLES
	MOVQ rest-64(SP), AX
	MOVQ out-24(SP), SI
	OUTPUTS(PUT)
	MOVQ R11, DX
	SHLQ $4, DX
	ADDQ DX, SI
	MOVQ SI, out-24(SP)
	MOVQ 104(R9), DX
	ADDQ DX, a-32(SP)
	MOVQ 120(R9), DX
	ADDQ DX, s-40(SP)
	SUBQ $16, AX
	MOVQ AX, rest-64(SP)
	JGT rows
	MOVQ 8(R9), DX
	ADDQ DX, w-8(SP)
	ADDQ $64, y-16(SP)
	DECQ panels+16(FP)
	JNE panel
	TILERELEASE
	VZEROUPPER
	RET

DATA amxPairs<>+0(SB)/8, $0x0705060403010200
DATA amxPairs<>+8(SB)/8, $0x0f0d0e0c0b090a08
GLOBL amxPairs<>(SB), RODATA|NOPTR, $16

// QUARTER widens 16 integers.
#define QUARTER(n, at) \
	VEXTRACTI32X4 $n, Z0, X1 \
	VPMOVSXBD X1, Z1 \
	VCVTDQ2PS Z1, Z1 \
	VPSRLD $16, Z1, Z1 \
	VPMOVDW Z1, at

// func amxWiden(dst *byte, q *int8, blocks int)
TEXT ·amxWiden(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ q+8(FP), SI
	MOVQ blocks+16(FP), CX
	VBROADCASTI32X4 amxPairs<>(SB), Z2

wide:
	VMOVDQU64 (SI), Z0
	VPSHUFB Z2, Z0, Z0
	QUARTER(0, (DI))
	QUARTER(1, 32(DI))
	QUARTER(2, 1024(DI))
	QUARTER(3, 1056(DI))
	ADDQ $64, SI
	ADDQ $2048, DI
	DECQ CX
	JNE wide
	VZEROUPPER
	RET
