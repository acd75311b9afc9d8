#!/usr/bin/env bash
# Assembles the kernels for devices of several generations, and prints the registers, spills and shared memory of each as a table
# for docs/cuda.md. PTXAS names the assembler of a CUDA installation, or of scripts/cuda/headers.sh.
set -euo pipefail
cd "$(dirname "$0")/../../backends/cuda/kernel"
ptxas=${PTXAS:-$(command -v ptxas || echo ../../../build/cuda-headers/bin/ptxas)}
[ -x "$ptxas" ] || { echo "ptxas: none here: run scripts/cuda/headers.sh, or set PTXAS"; exit 1; }
architectures=(sm_70 sm_80 sm_90)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for a in "${architectures[@]}"; do
  for f in *.ptx; do
    target=$(sed -nE 's/^\.target sm_([0-9]+)$/\1/p' "$f")
    [ "${a#sm_}" -ge "$target" ] || continue
    "$ptxas" -v -arch="$a" "$f" -o /dev/null 2>&1
  done | awk -v a="$a" '
    /Compiling entry function/ { split($0, q, "\047"); name = q[2] }
    /bytes spill stores/ { spills = $5 + $9 }
    /Used [0-9]+ registers/ {
      for (i = 1; i <= NF; i++) { if ($i == "Used") registers = $(i + 1); if ($i == "smem,") shared = $(i - 2) }
      printf "%s %s %d %d %d\n", name, a, registers, spills, shared; shared = 0
    }' >>"$work/all"
done
echo "| kernel | registers on sm_70 | sm_80 | sm_90 | spilled bytes | shared memory |"
echo "|---|---|---|---|---|---|"
awk '{ r[$1, $2] = $3; s[$1] += $4; m[$1] += $5; if (!seen[$1]++) order[++n] = $1 }
  END { for (i = 1; i <= n; i++) { k = order[i]
    printf "| `%s` | %s | %s | %s | %d | %d |\n", k, cell(r[k, "sm_70"]), cell(r[k, "sm_80"]), cell(r[k, "sm_90"]), s[k], m[k] } }
  function cell(v) { return v == "" ? "-" : v }' "$work/all" | sort
