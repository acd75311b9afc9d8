#!/usr/bin/env bash
# Builds the Python expert into a folder: the script, and lib/ with all that it imports beside the standard library. Needs
# Python 3 with venv, protoc, and PyPI. Runs as often as you like: lib/ is made again only if the pins or the protocol
# changed.
#
#   build.sh DIR
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
proto="${PIMOE_PROTO:-$here/../../proto/v1}"
python=/usr/bin/python3 # as in the script's first line
mkdir -p "$1"
dir="$(cd "$1" && pwd)"
exec 9>"$dir/.lock"
flock 9

want="$(cat "$here/requirements.txt" "$proto"/*.proto | cksum) $("$python" --version)"
if [ "$(cat "$dir/lib.stamp" 2>/dev/null)" != "$want" ]; then
  rm -rf "$dir/lib" "$dir/venv"
  "$python" -m venv "$dir/venv"
  "$dir/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --only-binary :all: \
    --target "$dir/lib" -r "$here/requirements.txt"
  rm -rf "$dir/venv"
  protoc -I "$proto" --python_out="$dir/lib" "$proto/common.proto" "$proto/expert.proto"
  "$python" -m compileall -q "$dir/lib" # the confined plugin can't keep what it compiles
  chmod -R go-w "$dir/lib"
  echo "$want" >"$dir/lib.stamp"
fi
cmp -s "$here/pimoe-expert-numpy" "$dir/pimoe-expert-numpy" || install -m 755 "$here/pimoe-expert-numpy" "$dir/pimoe-expert-numpy"
