#!/usr/bin/env bash
# Puts CUDA's headers, the link stub of the driver and ptxas into a folder (build/cuda-headers), from Debian's non-free packages:
# some 860 MB to fetch, 50 MB kept. Nothing is installed, no other apt setting is touched, and nothing of it may be committed
# or passed on: its licence is NVIDIA's. Whoever has a CUDA installation takes that: make cuda CUDA=/usr/local/cuda.
set -euo pipefail
cd "$(dirname "$0")/../.."
to=${1:-build/cuda-headers}
[ ! -e "$to/include/cuda.h" ] || exit 0
command -v apt-get >/dev/null 2>&1 || { echo "headers: no apt-get here: set CUDA to a CUDA installation"; exit 1; }
. /etc/os-release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial"
echo "deb http://deb.debian.org/debian ${VERSION_CODENAME:-bookworm} contrib non-free" >"$work/sources"
options=(-o "Dir::Etc::SourceList=$work/sources" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root)
apt-get "${options[@]}" -qq update
(cd "$work" && apt-get "${options[@]}" -qq download nvidia-cuda-dev nvidia-cuda-toolkit)
mkdir -p "$work/x" "$to"
dpkg-deb --fsys-tarfile "$work"/nvidia-cuda-dev_*.deb | tar x -C "$work/x" --wildcards './usr/include/*' './usr/lib/*/stubs/*'
dpkg-deb --fsys-tarfile "$work"/nvidia-cuda-toolkit_*.deb | tar x -C "$work/x" ./usr/bin/ptxas 2>/dev/null ||
  dpkg-deb --fsys-tarfile "$work"/nvidia-cuda-toolkit_*.deb | tar x -C "$work/x" --wildcards '*/ptxas'
mkdir -p "$to/stubs" "$to/bin"
cp -r "$work/x/usr/include" "$to/include.new"
cp "$work"/x/usr/lib/*/stubs/libcuda.so "$to/stubs/"
find "$work/x" -name ptxas -type f -exec cp {} "$to/bin/" \;
mv "$to/include.new" "$to/include"
echo "headers: $to"
