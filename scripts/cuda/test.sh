#!/usr/bin/env bash
# Everything about the CUDA backend that a machine without a GPU can show: the kernels' PTX is what the source makes, the build with
# the tag is vetted, and the backend and the host's experts pass their tests on the emulated driver. Arguments go to the
# tests of the backend, such as -race.
set -euo pipefail
cd "$(dirname "$0")/../.."
GO=${GO:-go}

if command -v clang-19 >/dev/null 2>&1; then
  fresh=$(mktemp -d)
  trap 'rm -rf "$fresh"' EXIT
  backends/cuda/kernel/generate.sh "$fresh"
  for f in "$fresh"/*.ptx; do
    cmp "$f" "backends/cuda/kernel/$(basename "$f")" || { echo "backends/cuda/kernel is not what its generate.sh makes"; exit 1; }
  done
else
  echo "no clang-19 (Debian: clang-19): the PTX is not made anew"
fi
. scripts/cuda/env.sh
packages="./backends/cuda/... ./plugins/cmd/pimoe-expert-cuda"
CUDAEMU=$(mktemp -u)
export CUDAEMU
# The driver is the only C: what the standard library could take from C would have to be compiled for these tests alone.
tags=cuda,netgo,osusergo
$GO vet -tags $tags $packages
$GO test -tags $tags -vet=off -count=1 -timeout 5m "$@" ./backends/cuda ./plugins/cmd/pimoe-expert-cuda
mkdir -p build/cuda
$GO build -tags $tags -o build/cuda/pimoe-expert-cuda ./plugins/cmd/pimoe-expert-cuda
# The host links nothing of it. The device of the processes that it starts is described by the file beside the library.
PIMOE_CUDA_PLUGIN=$PWD/build/cuda/pimoe-expert-cuda PIMOE_CUDA_CONF=$PWD/build/cudaemu/cudaemu.conf CGO_ENABLED=0 \
  $GO test -tags cuda -vet=off -count=1 -timeout 5m -run '^TestCUDA' ./server/acceptance

# The probe of pimoe doctor is built without CUDA, and names the device.
CGO_ENABLED=0 $GO build -o build/cuda/pimoe-probe-cuda ./plugins/cmd/pimoe-probe-cuda
CUDAEMU=$CUDAEMU LD_LIBRARY_PATH=$PWD/build/cudaemu build/cuda/pimoe-probe-cuda | grep -q '"name":"emulated sm_80 #0","sm":80' ||
  { echo "the probe does not name the emulated device"; exit 1; }
