#!/usr/bin/env bash
# Measures what a crowd of clients costs and writes it between docs/benchmarks.md's markers for connections. The machine
# should be quiet. Descriptors: two for each client, half of them in either process; the limit is raised as far as it may be.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ulimit -n "$(ulimit -Hn)"
run=(bench connections --sockets 8000 --streams 2000 --stalled 1000 --slow 5000 --for 60s)
out="$(mktemp)"
trap 'rm -f "$out"' EXIT
{
  printf '```text\n$ pimoe %s\n' "${run[*]}"
  ./bin/pimoe "${run[@]}"
  printf '```\n'
} >"$out"
scripts/put.sh docs/benchmarks.md connections <"$out"
