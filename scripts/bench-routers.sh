#!/usr/bin/env bash
# Compares all routers in ./bin on the embedded model and writes the table of docs/routers.md: two or three minutes on a
# machine that does nothing else.
#
#   scripts/bench-routers.sh [FLAGS of pimoe bench routers...]
set -euo pipefail
cd "$(dirname "$0")/.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT
./bin/pimoe bench routers --texts-file core/weights/embedded/pimoe-tiny/heldout.json --markdown "$@" >"$table"
cat "$table"
scripts/put.sh docs/routers.md routers <"$table"
