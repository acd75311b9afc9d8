#!/usr/bin/env bash
# Measures everything that docs/benchmarks.md reports and writes it between that page's result markers. Meant for a
# machine that does nothing else: about a quarter of an hour without peers.
#
#   scripts/bench.sh [SHAPE...]        small and olmoe-4l unless others are named
#
# PEER_SMALL, PEER_OLMOE_4L  commands that measure another program on the same shape (see pimoe bench --help), such as
#                            "LLAMA_BIN=... scripts/peer-llama.sh MODEL-Q8_0.gguf"
# ROUNDS                     alternating rounds, 5 unless set
# REPORTS                    a folder for the reports as JSON; none unless set
set -euo pipefail
cd "$(dirname "$0")/.."

page=docs/benchmarks.md
rounds=${ROUNDS:-5}
threads=${THREADS:-0}
out=$(mktemp)
trap 'rm -f "$out" "$out.page"' EXIT
[ $# -gt 0 ] || set -- small olmoe-4l

# section TITLE ARGS...: runs the command and puts it, its title and what it printed into the page.
section() {
  local title=$1 name
  shift
  echo "== $title" >&2
  name=$(tr -c 'a-z0-9\n' '-' <<<"${title,,}")
  local args=("$@")
  if [ -n "${REPORTS:-}" ] && [ "$1" = bench ] && [ "${2#-}" != "$2" ]; then
    mkdir -p "$REPORTS"
    args+=(--report "$REPORTS/$name.json")
  fi
  {
    printf '### %s\n\n```text\n$ pimoe' "$title"
    printf ' %q' "$@"
    printf '\n'
    ./bin/pimoe "${args[@]}" || echo "failed with exit code $?"
    printf '```\n\n'
  } >>"$out"
}

int8=(--backend int8 --trunk-backend int8)
common=(--isolation both --rounds "$rounds" --threads "$threads" --limits --starts 3 --idle 2s)
for shape in "$@"; do
  variable=PEER_$(tr 'a-z-' 'A-Z_' <<<"$shape")
  peer=()
  [ -z "${!variable:-}" ] || peer=(--peer "${!variable}")
  section "$shape, int8g32" bench --shape "$shape" "${int8[@]}" --max-processes 8 --workload prefill,decode,batch8,batch32 "${common[@]}" "${peer[@]}"
  section "$shape, bf16w-f32" bench --shape "$shape" --max-processes 8 --workload prefill,decode "${common[@]}"
done
section "64 expert processes" bench --shape olmoe-4l "${int8[@]}" --workload decode,batch8,batch32 "${common[@]}"
section "One layer" bench --shape layer512 "${int8[@]}" --workload layer32 --isolation both --rounds "$rounds" --threads "$threads"
section "The embedded model" bench --workload decode,batch8,batch32 --isolation both --rounds "$rounds" --threads "$threads" --starts 3
section "32 streaming clients" bench http --shape small "${int8[@]}" --threads "$threads" --rounds "$rounds"
section "Perplexity of the embedded model, int8g32 against bf16w-f32" eval --texts-file core/weights/embedded/pimoe-tiny/heldout.json "${int8[@]}" \
  --against experts.backend=cpu --against trunk.backend=cpu
section "Kernels" bench kernels --backend cpu,int8 --threads "$threads"

awk -v results="$out" '
  /^<!-- results -->$/ { print; while ((getline line < results) > 0) print line; skip = 1 }
  /^<!-- \/results -->$/ { skip = 0 }
  !skip && !/^<!-- results -->$/ { print }
' "$page" >"$out.page"
cp "$out.page" "$page"
