#!/usr/bin/env bash
# Builds the C expert into a folder. Needs a C compiler, nghttp2 and OpenSSL with their headers (Debian: gcc libnghttp2-dev
# libssl-dev).
#
#   build.sh DIR
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "$1"
exec 9>"$1/.lock"
flock 9
# -ffp-contract=off: where the classes round twice, so must we.
"${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -Werror -ffp-contract=off -pthread -o "$1/new" "$here"/*.c -lnghttp2 -lssl -lcrypto -lm
chmod 755 "$1/new"
cmp -s "$1/new" "$1/pimoe-expert-c" || mv "$1/new" "$1/pimoe-expert-c"
