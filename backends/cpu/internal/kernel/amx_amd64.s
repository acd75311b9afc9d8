#include "textflag.h"

// Tile instructions, which Go's assembler does not know. Tiles 0 and 1 are the sums of the first 16 rows for two panels, 2 and 3
// those of the rows beyond; 4 and 5 hold activations of the two (rows x 32 inputs), 6 and 7 weights of the panels (16 lines of
// 16 outputs x 2 inputs).
#define LDTILECFG BYTE $0xc4; BYTE $0xe2; BYTE $0x78; BYTE $0x49; BYTE $0x00 // ldtilecfg (AX)
#define TILERELEASE BYTE $0xc4; BYTE $0xe2; BYTE $0x78; BYTE $0x49; BYTE $0xc0 // tilerelease
#define TILEZERO_0 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xc0 // tilezero tmm0
#define TILEZERO_1 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xc8 // tilezero tmm1
#define TILEZERO_2 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xd0 // tilezero tmm2
#define TILEZERO_3 BYTE $0xc4; BYTE $0xe2; BYTE $0x7b; BYTE $0x49; BYTE $0xd8 // tilezero tmm3
#define TILELOADD_0 BYTE $0xc4; BYTE $0xa2; BYTE $0x7b; BYTE $0x4b; BYTE $0x04; BYTE $0x2e // tileloadd tmm0, 0(SI)(R13*1)
#define TILELOADD_1 BYTE $0xc4; BYTE $0xa2; BYTE $0x7b; BYTE $0x4b; BYTE $0x0c; BYTE $0x2a // tileloadd tmm1, 0(DX)(R13*1)
#define TILELOADD_2 BYTE $0xc4; BYTE $0x82; BYTE $0x7b; BYTE $0x4b; BYTE $0x14; BYTE $0x2e // tileloadd tmm2, 0(R14)(R13*1)
#define TILELOADD_3 BYTE $0xc4; BYTE $0x82; BYTE $0x7b; BYTE $0x4b; BYTE $0x1c; BYTE $0x2f // tileloadd tmm3, 0(R15)(R13*1)
#define TILELOADD_4 BYTE $0xc4; BYTE $0x82; BYTE $0x7b; BYTE $0x4b; BYTE $0x24; BYTE $0x08 // tileloadd tmm4, 0(R8)(R9*1)
#define TILELOADD_5 BYTE $0xc4; BYTE $0x82; BYTE $0x7b; BYTE $0x4b; BYTE $0xac; BYTE $0x08; LONG $1024 // tileloadd tmm5, 1024(R8)(R9*1)
#define TILELOADD_6 BYTE $0xc4; BYTE $0x82; BYTE $0x7b; BYTE $0x4b; BYTE $0x34; BYTE $0x0a // tileloadd tmm6, 0(R10)(R9*1)
#define TILELOADD_7 BYTE $0xc4; BYTE $0x82; BYTE $0x7b; BYTE $0x4b; BYTE $0x3c; BYTE $0x0b // tileloadd tmm7, 0(R11)(R9*1)
#define TDPBF16PS_0_4_6 BYTE $0xc4; BYTE $0xe2; BYTE $0x4a; BYTE $0x5c; BYTE $0xc4 // tdpbf16ps tmm0, tmm4, tmm6
#define TDPBF16PS_1_4_7 BYTE $0xc4; BYTE $0xe2; BYTE $0x42; BYTE $0x5c; BYTE $0xcc // tdpbf16ps tmm1, tmm4, tmm7
#define TDPBF16PS_2_5_6 BYTE $0xc4; BYTE $0xe2; BYTE $0x4a; BYTE $0x5c; BYTE $0xd5 // tdpbf16ps tmm2, tmm5, tmm6
#define TDPBF16PS_3_5_7 BYTE $0xc4; BYTE $0xe2; BYTE $0x42; BYTE $0x5c; BYTE $0xdd // tdpbf16ps tmm3, tmm5, tmm7
#define TILESTORED_0 BYTE $0xc4; BYTE $0xa2; BYTE $0x7a; BYTE $0x4b; BYTE $0x04; BYTE $0x2e // tilestored 0(SI)(R13*1), tmm0
#define TILESTORED_1 BYTE $0xc4; BYTE $0xa2; BYTE $0x7a; BYTE $0x4b; BYTE $0x0c; BYTE $0x2a // tilestored 0(DX)(R13*1), tmm1
#define TILESTORED_2 BYTE $0xc4; BYTE $0x82; BYTE $0x7a; BYTE $0x4b; BYTE $0x14; BYTE $0x2e // tilestored 0(R14)(R13*1), tmm2
#define TILESTORED_3 BYTE $0xc4; BYTE $0x82; BYTE $0x7a; BYTE $0x4b; BYTE $0x1c; BYTE $0x2f // tilestored 0(R15)(R13*1), tmm3

// AHEAD is how far weights are fetched into the second cache before they are loaded: two blocks; more was a tenth slower for
// one row. A load of a tile fills all the buffers of the first cache's misses, which alone read memory at half its speed.
#define AHEAD 2048

// FETCH fetches a panel's block.
#define FETCH(panel) \
	PREFETCHT1 (AHEAD+0)(panel) \
	PREFETCHT1 (AHEAD+64)(panel) \
	PREFETCHT1 (AHEAD+128)(panel) \
	PREFETCHT1 (AHEAD+192)(panel) \
	PREFETCHT1 (AHEAD+256)(panel) \
	PREFETCHT1 (AHEAD+320)(panel) \
	PREFETCHT1 (AHEAD+384)(panel) \
	PREFETCHT1 (AHEAD+448)(panel) \
	PREFETCHT1 (AHEAD+512)(panel) \
	PREFETCHT1 (AHEAD+576)(panel) \
	PREFETCHT1 (AHEAD+640)(panel) \
	PREFETCHT1 (AHEAD+704)(panel) \
	PREFETCHT1 (AHEAD+768)(panel) \
	PREFETCHT1 (AHEAD+832)(panel) \
	PREFETCHT1 (AHEAD+896)(panel) \
	PREFETCHT1 (AHEAD+960)(panel)

#define NEXT \
	ADDQ R12, R8 \
	ADDQ $1024, R10 \
	ADDQ $1024, R11 \
	DECQ CX

// func amxBlocks(t *Tile, config *tileConfig, blocks int)
//
// SI, DX    results of the first 16 rows of the two panels   R13   bytes from a row of them to the next
// R14, R15  those of the rows beyond                         R9    64
// R8        activations                                      R12   bytes of a block of them
// R10, R11  weights of the two panels                        CX    blocks
TEXT ·amxBlocks(SB), NOSPLIT, $0-24
	MOVQ config+8(FP), AX
	LDTILECFG
	MOVQ t+0(FP), DI
	MOVQ blocks+16(FP), CX
	MOVQ $64, R9
	MOVQ 0(DI), AX   // Panels
	MOVQ 16(DI), R12 // Rows
	SHLQ $6, R12
	MOVQ 40(DI), R8  // X
	MOVQ 56(DI), R13 // Stride
	MOVQ 0(AX), R10
	ADDQ 32(DI), R10 // W
	MOVQ 8(AX), SI
	ADDQ 48(DI), SI  // Y
	MOVQ R13, R14
	SHLQ $4, R14
	MOVQ R14, R15
	ADDQ SI, R14
	XORQ R11, R11
	CMPQ 8(DI), $1   // Count
	JEQ one
	MOVQ 16(AX), R11
	ADDQ 32(DI), R11
	MOVQ 24(AX), DX
	ADDQ 48(DI), DX
	ADDQ DX, R15
	CMPQ R12, $1024
	JGT both

	TILEZERO_0
	TILEZERO_1
	CMPQ 64(DI), $0 // Carry
	JEQ rows16
	TILELOADD_0
	TILELOADD_1

rows16:
	TILELOADD_4
	TILELOADD_6
	TDPBF16PS_0_4_6
	TILELOADD_7
	TDPBF16PS_1_4_7
	FETCH(R10)
	FETCH(R11)
	NEXT
	JNE rows16
	TILESTORED_0
	TILESTORED_1
	TILERELEASE
	RET

both:
	TILEZERO_0
	TILEZERO_1
	TILEZERO_2
	TILEZERO_3
	CMPQ 64(DI), $0 // Carry
	JEQ rows32
	TILELOADD_0
	TILELOADD_1
	TILELOADD_2
	TILELOADD_3

rows32:
	TILELOADD_4
	TILELOADD_6
	TDPBF16PS_0_4_6
	TILELOADD_7
	TDPBF16PS_1_4_7
	TILELOADD_5
	TDPBF16PS_2_5_6
	TDPBF16PS_3_5_7
	FETCH(R10)
	FETCH(R11)
	NEXT
	JNE rows32
	TILESTORED_0
	TILESTORED_1
	TILESTORED_2
	TILESTORED_3
	TILERELEASE
	RET

one:
	CMPQ R12, $1024
	JGT tall
	TILEZERO_0
	CMPQ 64(DI), $0 // Carry
	JEQ one16
	TILELOADD_0

one16:
	TILELOADD_4
	TILELOADD_6
	TDPBF16PS_0_4_6
	FETCH(R10)
	NEXT
	JNE one16
	TILESTORED_0
	TILERELEASE
	RET

tall:
	TILEZERO_0
	TILEZERO_2
	CMPQ 64(DI), $0 // Carry
	JEQ one32
	TILELOADD_0
	TILELOADD_2

one32:
	TILELOADD_4
	TILELOADD_6
	TDPBF16PS_0_4_6
	TILELOADD_5
	TDPBF16PS_2_5_6
	FETCH(R10)
	NEXT
	JNE one32
	TILESTORED_0
	TILESTORED_2
	TILERELEASE
	RET
