#!/usr/bin/env bash
# The proof on a GPU: builds the CUDA backend for this machine, runs conformance, parity with the reference and the processor,
# invariance, the death of a process in the middle of an answer, and benchmarks beside the device's limits, and writes one report.
# CUDA=DIR names a CUDA installation; without it Debian's headers are fetched. CUDA=emulation tries the script itself: the report
# says so, and proves nothing about hardware.
set -uo pipefail
cd "$(dirname "$0")/../.."
GO=${GO:-go}
report=${REPORT:-build/gpu-proof.md}
if [ -z "${CUDA:-}" ]; then
  scripts/cuda/headers.sh || exit 1
  CUDA=$PWD/build/cuda-headers
fi
. scripts/cuda/env.sh || exit 1
unset CUDAEMU PIMOE_CUDA_CONF
[ "$CUDA" != emulation ] || export LD_LIBRARY_PATH=$PWD/build/cudaemu PIMOE_CUDA_CONF=$PWD/build/cudaemu/cudaemu.conf # the probe looks for a driver when it runs
mkdir -p build/cuda "$(dirname "$report")"
failed=0
section() { # TITLE COMMAND...: its output goes into the report
  local title=$1
  shift
  printf '\n## %s\n\n```\n$ %s\n' "$title" "$*" >>"$report"
  if "$@" >>"$report" 2>&1; then
    echo '```' >>"$report"
    echo "ok      $title"
  else
    printf '```\n\n**failed**\n' >>"$report"
    echo "FAILED  $title"
    failed=1
  fi
}
{
  echo "# Proof of the CUDA backend"
  echo
  if [ "$CUDA" = emulation ]; then
    echo "On the EMULATED driver: it shows that the script works, and nothing about hardware. Its times mean nothing."
  else
    echo "On the hardware named below."
  fi
  echo
  echo "Commit $(git describe --tags --always --dirty 2>/dev/null), $(date -u +%Y-%m-%dT%H:%MZ), $($GO version | cut -d' ' -f3-), $(uname -srm)."
} >"$report"
[ "$CUDA" = emulation ] || section "Device" nvidia-smi
section "Build" $GO build -tags cuda -o build/cuda/pimoe-expert-cuda ./plugins/cmd/pimoe-expert-cuda
CGO_ENABLED=0 section "Probe" $GO run ./plugins/cmd/pimoe-probe-cuda
section "Conformance, parity and invariance of the backend" $GO test -tags cuda -count=1 -v -timeout 10m -run 'TestBackend$|TestSharedClasses|TestTogether|TestRelease' ./backends/cuda
section "Rows straight from shared memory" $GO test -tags cuda -count=1 -v -timeout 10m -run 'TestShared$/^(pinned|odd_width)$' ./backends/cuda
export PIMOE_CUDA_PLUGIN=$PWD/build/cuda/pimoe-expert-cuda
PIMOE_CUDA_UNCONFINED=1 section "A model with experts on the GPU: parity, a kill, swaps under load" \
  $GO test -tags cuda -count=1 -v -timeout 10m -run 'TestCUDAMixed/kill|TestCUDASwap' ./server/acceptance
section "The same, confined by profile cuda" $GO test -tags cuda -count=1 -v -timeout 10m -run 'TestCUDAMixed/kill' ./server/acceptance
section "Benchmarks beside the device's limits" $GO test -tags cuda -count=1 -timeout 10m -run '^$' -bench Block -benchtime "${BENCHTIME:-300ms}" ./backends/cuda
echo "report: $report"
exit $failed
