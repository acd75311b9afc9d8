#!/usr/bin/env bash
# Builds the emulated libcuda.so.1 into a folder, with the header to compile against. Prints nothing if all is well.
set -euo pipefail
to=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")"
kernel=../../kernel

# What was made from the same files by the same compiler is not made again.
stamp=$(cat "$kernel"/* ./* | cksum; ${CC:-gcc} --version | head -1)
[ "$(cat "$to/stamp" 2>/dev/null)" != "$stamp" ] || exit 0
mkdir -p "$to/include"
work=$(mktemp -d "$to/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
families=()
for ptx in "$kernel"/*.ptx; do families+=("-DFAMILY_$(basename "$ptx" .ptx)=1"); done
sed -nE 's/^\.visible \.entry ([a-z0-9_]+)\($/K(\1)/p' "$kernel"/*.ptx >"$work/kernels.inc"
# The processor's own multiply-add makes kernels ten times as fast; where it has none the C library computes the same bits.
native=()
if grep -qw fma /proc/cpuinfo 2>/dev/null; then native=(-mfma -mavx2 -mf16c); fi
flags=(-std=gnu11 -O2 -fPIC -ffp-contract=off -fno-strict-aliasing -Wall -Werror -Wno-unused-function -Wno-unused-variable -Wno-unused-but-set-variable -Wno-pointer-to-int-cast -Wno-int-to-pointer-cast "${native[@]}" -I. -I"$work")
${CC:-gcc} "${flags[@]}" "${families[@]}" -c "$kernel/ffn.c" -o "$work/ffn.o" &
${CC:-gcc} "${flags[@]}" -c emu.c -o "$work/emu.o"
wait $!
${CC:-gcc} -shared -Wl,-soname,libcuda.so.1 -o "$work/libcuda.so.1" "$work/emu.o" "$work/ffn.o" -lm -ldl -lpthread
cp cuda.h "$to/include/cuda.h"
mv "$work/libcuda.so.1" "$to/libcuda.so.1"
ln -sf libcuda.so.1 "$to/libcuda.so"
echo "$stamp" >"$to/stamp"
