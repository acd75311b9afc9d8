#!/usr/bin/env bash
# Measures everything that docs/benchmarks.md reports and writes it between that page's result markers, and the table of
# README.md. Meant for a machine that does nothing else: about a quarter of an hour without peers.
#
#   scripts/bench.sh [SHAPE...]        small and olmoe-4l unless others are named
#
# PEER_SMALL, PEER_OLMOE_4L  commands that measure another program on the same shape (see pimoe bench --help) with 8-bit
#                            weights, such as "LLAMA_BIN=... scripts/peer-llama.sh MODEL-Q8_0.gguf"
# PEER_SMALL_BF16, PEER_OLMOE_4L_BF16  the same with 16-bit weights
# ROUNDS                     alternating rounds, 5 unless set
# REPORTS                    a folder that keeps the reports as JSON
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-5}
threads=${THREADS:-0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/results
reports=${REPORTS:-$work}
mkdir -p "$reports"
tabled=() # the reports that make README's table
[ $# -gt 0 ] || set -- small olmoe-4l

# section TITLE ARGS...: runs the command and puts it, its title and what it printed into the page.
section() {
  local title=$1 name
  shift
  echo "== $title" >&2
  name=$(tr -c 'a-z0-9\n' '-' <<<"${title,,}")
  local args=("$@")
  if [ "$1" = bench ] && [ "${2#-}" != "$2" ]; then
    rm -f "$reports/$name.json"
    args+=(--report "$reports/$name.json")
  fi
  {
    printf '### %s\n\n```text\n$ pimoe' "$title"
    for word in "$@"; do
      if [[ $word == *[!a-zA-Z0-9_./=,+-]* ]]; then printf " '%s'" "$word"; else printf ' %s' "$word"; fi
    done
    printf '\n'
    ./bin/pimoe "${args[@]}" || echo "failed with exit code $?"
    printf '```\n\n'
  } >>"$out"
  [ ! -s "$reports/$name.json" ] || tabled+=("$reports/$name.json")
}

int8=(--backend int8 --trunk-backend int8)
half=(--set kv_cache.dtype=f16) # with 8-bit weights, as in configs/int8.yaml; other engines keep keys and values so, too
common=(--isolation both --rounds "$rounds" --threads "$threads" --limits --starts 3 --idle 2s)
for shape in "$@"; do
  variable=PEER_$(tr 'a-z-' 'A-Z_' <<<"$shape")
  wide=${variable}_BF16
  peer=() widepeer=()
  [ -z "${!variable:-}" ] || peer=(--peer "${!variable}")
  [ -z "${!wide:-}" ] || widepeer=(--peer "${!wide}")
  section "$shape, int8g32" bench --shape "$shape" "${int8[@]}" "${half[@]}" --max-processes 8 --workload prefill,decode,batch8,batch32 "${common[@]}" "${peer[@]}"
  section "$shape, bf16w-f32" bench --shape "$shape" --max-processes 8 --workload prefill,decode "${common[@]}" "${widepeer[@]}"
done
case " $* " in *" olmoe-4l "*)
  peer=()
  [ -z "${PEER_OLMOE_4L_BF16:-}" ] || peer=(--peer "$PEER_OLMOE_4L_BF16")
  section "olmoe-4l, bf16" bench --shape olmoe-4l --precision bf16 --trunk-precision bf16 --max-processes 8 --workload prefill,decode "${common[@]}" "${peer[@]}"
  section "olmoe-4l, 64 processes" bench --shape olmoe-4l "${int8[@]}" "${half[@]}" --workload decode,batch8,batch32 "${common[@]}" ;;
esac
section "One layer" bench --shape layer512 "${int8[@]}" --workload layer32 --isolation both --rounds "$rounds" --threads "$threads"
section "The embedded model" bench --workload decode,batch8,batch32 --isolation both --rounds "$rounds" --threads "$threads" --starts 3
section "32 streaming clients" bench http --shape small "${int8[@]}" "${half[@]}" --threads "$threads" --rounds "$rounds"
section "Perplexity of the embedded model, int8g32 against bf16w-f32" eval --texts-file core/weights/embedded/pimoe-tiny/heldout.json "${int8[@]}" \
  --against experts.backend=cpu --against trunk.backend=cpu
section "Kernels" bench kernels --backend cpu,int8 --threads "$threads"

scripts/put.sh docs/benchmarks.md results <"$out"
./bin/pimoe bench table "${tabled[@]}" | scripts/put.sh README.md benchmarks
