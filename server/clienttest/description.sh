#!/usr/bin/env bash
# Installs Schemathesis, which asks a server what its OpenAPI description allows and judges the answers, into
# .cache/schemathesis at the versions of requirements-schemathesis.txt. Does nothing while the pins are the same.
# Needs Python 3 with venv, and PyPI.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="$(cd "$here/../.." && pwd)/.cache/schemathesis"
mkdir -p "$cache"
want="$(cksum <"$here/requirements-schemathesis.txt")"
if [ "$(cat "$cache/stamp" 2>/dev/null)" != "$want" ]; then
  rm -rf "$cache/.venv"
  python3 -m venv "$cache/.venv"
  "$cache/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps -r "$here/requirements-schemathesis.txt"
  echo "$want" >"$cache/stamp"
fi
