#!/usr/bin/env bash
# Installs the official OpenAI clients, that of Triton, LangChain and an OpenID Connect provider for the tests of this folder into .cache/clients, at the versions that
# requirements.txt and package-lock.json pin. Runs as often as you like: it does nothing while the pins are the same.
# Needs Python 3 with venv, Node 20 or later with npm, and the registries of both.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="$(cd "$here/../.." && pwd)/.cache/clients"
mkdir -p "$cache"

stamp() { cat "$@" | cksum; }

want="$(stamp "$here/requirements.txt")"
if [ "$(cat "$cache/python.stamp" 2>/dev/null)" != "$want" ]; then
  rm -rf "$cache/.venv"
  python3 -m venv "$cache/.venv"
  "$cache/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps -r "$here/requirements.txt"
  echo "$want" >"$cache/python.stamp"
fi

want="$(stamp "$here/package.json" "$here/package-lock.json")"
if [ "$(cat "$cache/node.stamp" 2>/dev/null)" != "$want" ]; then
  cp "$here/package.json" "$here/package-lock.json" "$cache/"
  npm --prefix "$cache" ci --silent --no-audit --no-fund --ignore-scripts
  echo "$want" >"$cache/node.stamp"
fi
