#!/usr/bin/env bash
# Replaces what lies between a page's markers <!-- MARKER --> and <!-- /MARKER --> with standard input.
#
#   scripts/put.sh FILE MARKER
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/new"
grep -qxF "<!-- $2 -->" "$1" && grep -qxF "<!-- /$2 -->" "$1" || { echo "$1 has no markers for $2" >&2; exit 1; }
awk -v start="<!-- $2 -->" -v end="<!-- /$2 -->" -v new="$work/new" '
  $0 == start { print; while ((getline line < new) > 0) print line; skip = 1 }
  $0 == end { skip = 0 }
  !skip && $0 != start { print }
' "$1" >"$work/page"
cp "$work/page" "$1"
