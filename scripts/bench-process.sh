#!/usr/bin/env bash
# Compares POST /api/v1/process of the shape layer512 with a FastAPI and PyTorch service of the same size, side by side in
# one run: 32 rows a request, 1, 8 and 32 clients, JSON and binary, float32 arithmetic and int8. Some four minutes on a machine that
# does nothing else. Writes the table of docs/benchmarks.md.
#
#   scripts/bench-process.sh [FLAGS of pimoe bench process...]
#
# PEER_PYTHON is a Python with torch, fastapi and uvicorn; without it they are installed into bin/peer-fastapi, which takes
# a few GB.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PEER_PYTHON:-$PWD/bin/peer-fastapi/bin/python}
if [ ! -x "$python" ]; then
  python3 -m venv bin/peer-fastapi
  "$python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 fastapi==0.165.0 'uvicorn[standard]'
fi

work=$(mktemp -d)
pids=()
cleanup() {
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap cleanup EXIT

# up NAME URL STATUS: waits until a server answers with this status.
up() {
  for _ in $(seq 300); do
    [ "$(curl -s --noproxy '*' -o /dev/null -w '%{http_code}' "$2" 2>/dev/null)" != "$3" ] || return 0
    sleep 0.2
  done
  echo "$1 does not answer on $2" >&2
  cat "$work"/*.log >&2
  exit 1
}

export PYTHONDONTWRITEBYTECODE=1
for workers in 1 2; do # two workers share two cores: a thread of PyTorch each
  (cd scripts/peer-fastapi && THREADS=$((3 - workers)) exec "$python" -m uvicorn app:app --workers $workers --port 1876$workers --log-level warning --no-access-log) \
    >"$work/fastapi$workers.log" 2>&1 &
  pids+=($!)
done
port=18765
for backend in cpu int8; do # float32 arithmetic on the checkpoint's bf16 weights; 8-bit integers
  ./bin/pimoe serve --home "$work/home" --shape layer512 --backend $backend --addr 127.0.0.1:$port --admin-addr off \
    >"$work/$backend.log" 2>&1 &
  pids+=($!)
  up "pimoe $backend" http://127.0.0.1:$port/readyz 200
  port=$((port + 1))
done
up "FastAPI, 1 worker" http://127.0.0.1:18761/docs 200
up "FastAPI, 2 workers" http://127.0.0.1:18762/docs 200

./bin/pimoe bench process \
  --side "FastAPI, 1 worker=http://127.0.0.1:18761/api/v1/process" --side "FastAPI, 2 workers=http://127.0.0.1:18762/api/v1/process" \
  --side "bf16w-f32, JSON=http://127.0.0.1:18765/api/v1/process" --side "bf16w-f32, binary=binary:http://127.0.0.1:18765/api/v1/process" \
  --side "int8g32, JSON=http://127.0.0.1:18766/api/v1/process" --side "int8g32, binary=binary:http://127.0.0.1:18766/api/v1/process" \
  "$@" | tee "$work/table"
{ echo '```text'; cat "$work/table"; echo '```'; } >"$work/block"
[ -n "${DRY:-}" ] || scripts/put.sh docs/benchmarks.md process <"$work/block"
