#include "textflag.h"

// Tile instructions, which Go's assembler does not know. Tiles 0 and 1 take the integers of a block's two groups, 2 and 3 those
// of the next block's; 4 and 5 hold activations (16 rows x 32 inputs), 6 and 7 weights (8 lines of 16 outputs x 4 inputs).
#define LDTILECFG_R15 BYTE $0xc4; BYTE $0xc2; BYTE $0x78; BYTE $0x49; BYTE $0x07 // ldtilecfg (R15)
#define TILERELEASE BYTE $0xc4; BYTE $0xe2; BYTE $0x78; BYTE $0x49; BYTE $0xc0 // tilerelease
#define TILEZERO_0 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xc0 // tilezero tmm0
#define TILEZERO_1 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xc8 // tilezero tmm1
#define TILEZERO_2 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xd0 // tilezero tmm2
#define TILEZERO_3 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xd8 // tilezero tmm3
#define TILELOADD_4 BYTE $0xc4; BYTE $0x82; BYTE $0x7b; BYTE $0x4b; BYTE $0x24; BYTE $0x08 // tileloadd tmm4, 0(R8)(R9*1)
#define TILELOADD_5 BYTE $0xc4; BYTE $0x82; BYTE $0x7b; BYTE $0x4b; BYTE $0x6c; BYTE $0x08; BYTE $0x20 // tileloadd tmm5, 32(R8)(R9*1)
#define TILELOADD_6 BYTE $0xc4; BYTE $0xc2; BYTE $0x7b; BYTE $0x4b; BYTE $0x34; BYTE $0x0a // tileloadd tmm6, 0(R10)(CX*1)
#define TILELOADD_7 BYTE $0xc4; BYTE $0xc2; BYTE $0x7b; BYTE $0x4b; BYTE $0xbc; BYTE $0x0a; LONG $512 // tileloadd tmm7, 512(R10)(CX*1)
#define TDPBSSD_0_4_6 BYTE $0xc4; BYTE $0xe2; BYTE $0x4b; BYTE $0x5e; BYTE $0xc4 // tdpbssd tmm0, tmm4, tmm6
#define TDPBSSD_1_5_7 BYTE $0xc4; BYTE $0xe2; BYTE $0x43; BYTE $0x5e; BYTE $0xcd // tdpbssd tmm1, tmm5, tmm7
#define TDPBSSD_2_4_6 BYTE $0xc4; BYTE $0xe2; BYTE $0x4b; BYTE $0x5e; BYTE $0xd4 // tdpbssd tmm2, tmm4, tmm6
#define TDPBSSD_3_5_7 BYTE $0xc4; BYTE $0xe2; BYTE $0x43; BYTE $0x5e; BYTE $0xdd // tdpbssd tmm3, tmm5, tmm7
#define TILESTORED_0 BYTE $0xc4; BYTE $0xe2; BYTE $0x7a; BYTE $0x4b; BYTE $0x04; BYTE $0x0b // tilestored 0(BX)(CX*1), tmm0
#define TILESTORED_1 BYTE $0xc4; BYTE $0xe2; BYTE $0x7a; BYTE $0x4b; BYTE $0x8c; BYTE $0x0b; LONG $1024 // tilestored 1024(BX)(CX*1), tmm1
#define TILESTORED_2 BYTE $0xc4; BYTE $0xe2; BYTE $0x7a; BYTE $0x4b; BYTE $0x94; BYTE $0x0b; LONG $2048 // tilestored 2048(BX)(CX*1), tmm2
#define TILESTORED_3 BYTE $0xc4; BYTE $0xe2; BYTE $0x7a; BYTE $0x4b; BYTE $0x9c; BYTE $0x0b; LONG $3072 // tilestored 3072(BX)(CX*1), tmm3

// The configuration: palette 1, bytes of a row at 16, rows at 48.
DATA amxConfig<>+0(SB)/8, $1
DATA amxConfig<>+8(SB)/8, $0
DATA amxConfig<>+16(SB)/8, $0x0040004000400040
DATA amxConfig<>+24(SB)/8, $0x0040004000200020
DATA amxConfig<>+32(SB)/8, $0
DATA amxConfig<>+40(SB)/8, $0
DATA amxConfig<>+48(SB)/8, $0x0808101010101010
DATA amxConfig<>+56(SB)/8, $0
GLOBL amxConfig<>(SB), RODATA|NOPTR, $64

DATA amxSign<>+0(SB)/4, $0x80808080
GLOBL amxSign<>(SB), RODATA|NOPTR, $4

// SIGN makes signed bytes of a line of weights.
#define SIGN(line, Z) \
	VPXORD line*64(R15), Z31, Z \
	VMOVDQA64 Z, line*64(DI)

// SIGN_BLOCK makes the next block signed: from R15, past it, to DI, past it. It uses Z16 to Z19.
#define SIGN_BLOCK \
	SIGN(0, Z16) \
	SIGN(1, Z17) \
	SIGN(2, Z18) \
	SIGN(3, Z19) \
	SIGN(4, Z16) \
	SIGN(5, Z17) \
	SIGN(6, Z18) \
	SIGN(7, Z19) \
	SIGN(8, Z16) \
	SIGN(9, Z17) \
	SIGN(10, Z18) \
	SIGN(11, Z19) \
	SIGN(12, Z16) \
	SIGN(13, Z17) \
	SIGN(14, Z18) \
	SIGN(15, Z19) \
	ADDQ $1088, R15 \
	ADDQ $1024, DI

// FETCH fetches the next lines of the weights that come next into the second cache.
#define FETCH \
	MOVQ lines+24(FP), CX \
	PREFETCHT1 (BP) \
	ADDQ $64, BP \
	DECQ CX \
	JNE -3(PC) \
	MOVQ $64, CX

// FIRST and SECOND start the sums of a block's groups, EVEN and ODD in the tiles of that block.
#define FIRST_EVEN \
	TILELOADD_4 \
	TILELOADD_6 \
	TILEZERO_0 \
	TDPBSSD_0_4_6

#define SECOND_EVEN \
	TILELOADD_5 \
	TILELOADD_7 \
	TILEZERO_1 \
	TDPBSSD_1_5_7

#define FIRST_ODD \
	TILELOADD_4 \
	TILELOADD_6 \
	TILEZERO_2 \
	TDPBSSD_2_4_6

#define SECOND_ODD \
	TILELOADD_5 \
	TILELOADD_7 \
	TILEZERO_3 \
	TDPBSSD_3_5_7

// MULTIPLIED and ADDED go on to the next block, of what is multiplied and of the scales.
#define MULTIPLIED \
	ADDQ $64, R8 \
	ADDQ $1024, R10

#define ADDED \
	ADDQ $1088, SI \
	ADDQ $16, DX \
	ADDQ $16, AX

// MULTIPLY_EVEN and MULTIPLY_ODD start the sums of a block.
#define MULTIPLY_EVEN \
	FIRST_EVEN \
	SECOND_EVEN \
	MULTIPLIED

#define MULTIPLY_ODD \
	FIRST_ODD \
	SECOND_ODD \
	MULTIPLIED

#define STORE_EVEN \
	TILESTORED_0 \
	TILESTORED_1

#define STORE_ODD \
	TILESTORED_2 \
	TILESTORED_3

// ROW adds a row's sums, at sums, times the scales of weights (Z30) and activations (at scale).
#define ROW(sums, scale, INT, SCALE, ACC) \
	VCVTDQ2PS sums(BX), INT \
	VMULPS.BCST scale, Z30, SCALE \
	VFMADD231PS SCALE, INT, ACC

// GROUP adds group g of a block, whose sums begin at sums.
#define GROUP(sums, g) \
	VPMOVZXWD (1024+32*g)(SI), Z30 \
	VPSLLD $16, Z30, Z30 \
	ROW(sums+64*0, 8*g(DX), Z16, Z17, Z0) \
	ROW(sums+64*1, 8*g(DX)(R11*1), Z18, Z19, Z1) \
	ROW(sums+64*2, 8*g(DX)(R11*2), Z20, Z21, Z2) \
	ROW(sums+64*3, 8*g(DX)(R12*1), Z22, Z23, Z3) \
	ROW(sums+64*4, 8*g(DX)(R11*4), Z24, Z25, Z4) \
	ROW(sums+64*5, 8*g(DX)(R13*1), Z26, Z27, Z5) \
	ROW(sums+64*6, 8*g(DX)(R12*2), Z16, Z17, Z6) \
	ROW(sums+64*7, 8*g(DX)(R14*1), Z18, Z19, Z7) \
	ROW(sums+64*8, 8*g(AX), Z20, Z21, Z8) \
	ROW(sums+64*9, 8*g(AX)(R11*1), Z22, Z23, Z9) \
	ROW(sums+64*10, 8*g(AX)(R11*2), Z24, Z25, Z10) \
	ROW(sums+64*11, 8*g(AX)(R12*1), Z26, Z27, Z11) \
	ROW(sums+64*12, 8*g(AX)(R11*4), Z16, Z17, Z12) \
	ROW(sums+64*13, 8*g(AX)(R13*1), Z18, Z19, Z13) \
	ROW(sums+64*14, 8*g(AX)(R12*2), Z20, Z21, Z14) \
	ROW(sums+64*15, 8*g(AX)(R14*1), Z22, Z23, Z15)

#define ADD(sums) \
	GROUP(sums, 0) \
	GROUP(sums+1024, 1) \
	ADDED

#define ADD_EVEN ADD(0)
#define ADD_ODD ADD(2048)

// EVEN and ODD are a whole step, group after group: a block is multiplied, the one before stored, the one before that added.
#define EVEN \
	FIRST_EVEN \
	TILESTORED_2 \
	GROUP(0, 0) \
	SECOND_EVEN \
	TILESTORED_3 \
	GROUP(1024, 1) \
	MULTIPLIED \
	ADDED

#define ODD \
	FIRST_ODD \
	TILESTORED_0 \
	GROUP(2048, 0) \
	SECOND_ODD \
	TILESTORED_1 \
	GROUP(3072, 1) \
	MULTIPLIED \
	ADDED

// MULTIPLES makes R12, R13 and R14 3, 5 and 7 times R11.
#define MULTIPLES \
	LEAQ (R11)(R11*2), R12 \
	LEAQ (R11)(R11*4), R13 \
	LEAQ (R12)(R11*4), R14

// PUT stores a row's sums unless its bit in DX is set.
#define PUT(r, at, Z) \
	BTL $r, DX \
	JCS 2(PC) \
	VMOVUPS Z, at

// func amxRun(t *Tile, rows, panels, lines int)
//
// Of each panel, the first 16 rows make signed bytes of its weights, a block ahead of their use; the other rows find them. All
// rows fetch the next panel's weights, so many lines with each block, so that the memory is asked all the time.
// The last 16 rows begin where they end at the last row, and those that the 16 before them had are not stored again.
//
// AX, DX  the scales of activations of rows 8 and 0     R8, R9    activations of row 0, bytes from a row to the next
// BX      sums: [2 blocks][2 groups][16 rows][16]       R10       signed weights, to multiply
// CX      64                                            R11-R14   bytes from a row's scales to the next, times 1, 3, 5, 7
// SI      a block of weights, for its scales            R15, DI   weights, and signed weights to make of them
// BP      weights that come next, to fetch
//
// The frame is 64 bytes of variables, 4 KiB of sums, 16 KiB of signed weights and 64 bytes to begin at a line. The stack is
// checked before there are tiles, and nothing here can be preempted.
TEXT ·amxRun(SB), 0, $20608-32
	LEAQ amxConfig<>(SB), R15
	LDTILECFG_R15
	VPBROADCASTD amxSign<>(SB), Z31
	MOVQ $64, CX
	LEAQ 63(SP), BX
	ANDQ $~63, BX
	MOVQ t+0(FP), AX
	MOVQ 0(AX), DX
	MOVQ DX, w-8(SP)     // the panel's weights
	MOVQ 48(AX), DX
	MOVQ DX, y-16(SP)    // the panel's outputs of row 0
	MOVQ 24(AX), R9

panel:
	MOVQ $0, row-24(SP)  // the first row that is still to do
	MOVQ t+0(FP), AX
	MOVQ w-8(SP), BP     // the next panel, or where the next tile begins
	ADDQ 8(AX), BP
	CMPQ panels+16(FP), $1
	JNE rows
	MOVQ 0(AX), BP
	ADDQ 96(AX), BP

rows:
	// SI = the first of the 16 rows, DX = how many of them are done
	MOVQ row-24(SP), DX
	MOVQ rows+8(FP), SI
	SUBQ $16, SI
	CMPQ DX, SI
	CMOVQLT DX, SI
	SUBQ SI, DX
	MOVQ DX, done-40(SP)

	MOVQ t+0(FP), AX
	MOVQ 16(AX), R8
	MOVQ SI, DX
	IMULQ R9, DX
	ADDQ DX, R8
	MOVQ 56(AX), R11
	MOVQ SI, DX
	IMULQ R11, DX
	ADDQ y-16(SP), DX
	MOVQ DX, out-32(SP)

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
	CMPQ 72(AX), $0
	JEQ fresh
	MULTIPLES
	LEAQ (DX)(R11*8), DI
	VMOVUPS (DX), Z0
	VMOVUPS (DX)(R11*1), Z1
	VMOVUPS (DX)(R11*2), Z2
	VMOVUPS (DX)(R12*1), Z3
	VMOVUPS (DX)(R11*4), Z4
	VMOVUPS (DX)(R13*1), Z5
	VMOVUPS (DX)(R12*2), Z6
	VMOVUPS (DX)(R14*1), Z7
	VMOVUPS (DI), Z8
	VMOVUPS (DI)(R11*1), Z9
	VMOVUPS (DI)(R11*2), Z10
	VMOVUPS (DI)(R12*1), Z11
	VMOVUPS (DI)(R11*4), Z12
	VMOVUPS (DI)(R13*1), Z13
	VMOVUPS (DI)(R12*2), Z14
	VMOVUPS (DI)(R14*1), Z15

fresh:
	MOVQ 40(AX), R11
	MULTIPLES
	MOVQ 32(AX), DX
	IMULQ R11, SI
	ADDQ SI, DX
	MOVQ 64(AX), SI
	MOVQ SI, left-48(SP) // blocks that are still to be multiplied
	LEAQ (DX)(R11*8), AX
	MOVQ w-8(SP), SI
	LEAQ 4096(BX), R10
	MOVQ $1<<30, R15
	MOVQ R15, ahead-56(SP) // later rows sign no block
	CMPQ row-24(SP), $0
	JNE multiply
	MOVQ $1, ahead-56(SP)  // the first ones do while more blocks than this are left
	MOVQ SI, R15
	MOVQ R10, DI
	SIGN_BLOCK
	CMPQ left-48(SP), $1
	JEQ multiply
	SIGN_BLOCK
	CMPQ left-48(SP), $2
	JEQ multiply
	SIGN_BLOCK

multiply:
	MULTIPLY_EVEN
	FETCH
	DECQ left-48(SP)
	JEQ last
	MULTIPLY_ODD
	FETCH
	STORE_EVEN

blocks:
	// A block is multiplied while the one before is stored and the one before that is added.
	DECQ left-48(SP)
	JEQ lastOdd
	MOVQ left-48(SP), CX
	CMPQ CX, ahead-56(SP)
	MOVQ $64, CX
	JLE even
	SIGN_BLOCK

even:
	EVEN
	FETCH
	DECQ left-48(SP)
	JEQ lastEven
	MOVQ left-48(SP), CX
	CMPQ CX, ahead-56(SP)
	MOVQ $64, CX
	JLE odd
	SIGN_BLOCK

odd:
	ODD
	FETCH
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
	MOVQ t+0(FP), AX
	MOVQ 56(AX), R11
	MULTIPLES
	MOVQ out-32(SP), SI
	LEAQ (SI)(R11*8), DI
	MOVQ done-40(SP), CX
	MOVL $1, DX
	SHLL CX, DX
	DECL DX
	MOVQ $64, CX
	PUT(0, (SI), Z0)
	PUT(1, (SI)(R11*1), Z1)
	PUT(2, (SI)(R11*2), Z2)
	PUT(3, (SI)(R12*1), Z3)
	PUT(4, (SI)(R11*4), Z4)
	PUT(5, (SI)(R13*1), Z5)
	PUT(6, (SI)(R12*2), Z6)
	PUT(7, (SI)(R14*1), Z7)
	PUT(8, (DI), Z8)
	PUT(9, (DI)(R11*1), Z9)
	PUT(10, (DI)(R11*2), Z10)
	PUT(11, (DI)(R12*1), Z11)
	PUT(12, (DI)(R11*4), Z12)
	PUT(13, (DI)(R13*1), Z13)
	PUT(14, (DI)(R12*2), Z14)
	PUT(15, (DI)(R14*1), Z15)
	MOVQ row-24(SP), DX
	ADDQ $16, DX
	MOVQ DX, row-24(SP)
	CMPQ DX, rows+8(FP)
	JLT rows
	MOVQ 8(AX), DX
	ADDQ DX, w-8(SP)
	ADDQ $64, y-16(SP)
	DECQ panels+16(FP)
	JNE panel
	TILERELEASE
	VZEROUPPER
	RET
