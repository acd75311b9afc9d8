# Sourced: where the CUDA backend's headers and driver are. CUDA=emulation (the default) builds the emulated driver below
# build/cudaemu; CUDA=DIR takes include/cuda.h and the link stubs of a CUDA installation, or of scripts/cuda/headers.sh.
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
case ${CUDA:-emulation} in
emulation)
  "$repo/backends/cuda/internal/cudaemu/build.sh" "$repo/build/cudaemu"
  # Go's cache does not look into headers: a changed one has to be another flag.
  export CGO_CFLAGS="-I$repo/build/cudaemu/include -DCUDAEMU_HEADER=$(cksum <"$repo/build/cudaemu/include/cuda.h" | cut -d' ' -f1)"
  export CGO_LDFLAGS="-L$repo/build/cudaemu -Wl,-rpath,$repo/build/cudaemu"
  ;;
*)
  stubs=$(find -L "$CUDA" -name libcuda.so -path '*stubs*' 2>/dev/null | head -1)
  export CGO_CFLAGS="-I$repo/backends/cuda/shim -I$CUDA/include" CGO_LDFLAGS="${stubs:+-L$(dirname "$stubs")}"
  ;;
esac
export CGO_ENABLED=1
