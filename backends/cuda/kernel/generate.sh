#!/usr/bin/env bash
# Makes the PTX of every family of kernels from ffn.c, byte for byte the same with the pinned compiler: clang 19 of Debian. Needs
# neither CUDA nor a GPU. With a folder as its argument it writes there, so that whoever compares changes nothing.
set -euo pipefail
cd "$(dirname "$0")"
clang=${CLANG:-clang-19}
to=${1:-.}

# Products of 8-bit integers in fours have been there since sm_61, the matrix instructions used here since sm_80. PTX 7.0 is the
# first that has the latter; drivers since 450 take it, and compile it for newer devices too.
make() { # FAMILY ARCHITECTURE
  "$clang" -target nvptx64-nvidia-cuda -march="$2" -Xclang -target-feature -Xclang +ptx70 -nogpulib -nogpuinc -ffreestanding \
    -std=gnu11 -O3 -ffp-contract=off -fno-ident -Wall -Werror -Wno-unused-function -Wno-unused-variable -DFAMILY_"$1"=1 -S ffn.c -o - |
    sed -e 's/[ \t]*\/\/.*$//' -e '/^$/d' >"$to/$1.ptx"
}
make f32 sm_70
make bf16 sm_70
make f16 sm_70
make int8 sm_70
make int8_mma sm_80
make bf16_mma sm_80
make f16_mma sm_80
