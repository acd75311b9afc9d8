#!/usr/bin/env bash
# Generates what is generated of the clients in sdk/python and sdk/typescript from server/openapi.yaml. With --check it changes
# nothing, names the files that are not what would be generated, and fails. The generators are installed into .cache/sdk at
# pinned versions. Needs Python 3 with venv, Node 20 or later with npm, and the registries of both.
set -euo pipefail
cd "$(dirname "$0")/.."

cache="$PWD/.cache/sdk"
mkdir -p "$cache"
stamp() { cat "$@" | cksum; }

want=$(stamp sdk/python/generate-requirements.txt)
if [ "$(cat "$cache/python.stamp" 2>/dev/null)" != "$want" ]; then
  rm -rf "$cache/.venv"
  python3 -m venv "$cache/.venv"
  "$cache/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps -r sdk/python/generate-requirements.txt
  echo "$want" >"$cache/python.stamp"
fi
want=$(stamp sdk/typescript/package.json sdk/typescript/package-lock.json)
if [ "$(cat "$cache/node.stamp" 2>/dev/null)" != "$want" ]; then
  cp sdk/typescript/package.json sdk/typescript/package-lock.json "$cache/"
  npm --prefix "$cache" ci --silent --no-audit --no-fund --ignore-scripts
  echo "$want" >"$cache/node.stamp"
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$cache/.venv/bin/datamodel-codegen" --input server/openapi.yaml --input-file-type openapi --output "$out/models.py" \
  --output-model-type typing.TypedDict --target-python-version 3.11 --enum-field-as-literal all --openapi-scopes schemas \
  --use-schema-description --use-field-description --disable-timestamp --disable-warnings --formatters builtin
"$cache/.venv/bin/python" sdk/python/generate.py server/openapi.yaml >"$out/_operations.py"
"$cache/node_modules/.bin/openapi-typescript" server/openapi.yaml --default-non-nullable false --empty-objects-unknown -o "$out/schema.ts" >/dev/null

bad=0
place() { # GENERATED FILE
  if [ "${1##*/}" = "${2##*/}" ] && cmp -s "$1" "$2"; then
    return
  fi
  if [ "${check:-}" ]; then
    echo "$2 is not what scripts/sdk.sh makes"
    bad=1
  else
    cp "$1" "$2"
  fi
}
[ "${1:-}" = --check ] && check=1
place "$out/models.py" sdk/python/pimoe_client/models.py
place "$out/_operations.py" sdk/python/pimoe_client/_operations.py
place "$out/schema.ts" sdk/typescript/src/schema.ts
exit $bad
