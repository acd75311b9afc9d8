#!/usr/bin/env bash
# Everything `make test` does after the build: checks, tests, cross builds, and at the end a table of what was skipped
# and why. Each step runs even if an earlier one failed, so that one run shows every problem. PKGS narrows it to some
# packages, for trying this script.
set -uo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
PKGS=${PKGS:-./...}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
skips="$work/skips"
: >"$skips"
failed=()

step() { # NAME COMMAND...: runs a step, shows its time, remembers a failure
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  if ! "$@"; then
    failed+=("$name")
    echo "== $name FAILED"
  fi
  echo "== $name: $((SECONDS - start)) s"
}
skip() { printf '%s\t%s\n' "$1" "$2" >>"$skips"; } # NAME REASON

format() {
  local out
  out=$(gofmt -l $(git ls-files -co --exclude-standard -- '*.go'))
  [ -z "$out" ] || { echo "not formatted by gofmt:"; echo "$out"; return 1; }
}

# Kernels are compared bit for bit over many sizes: under the race detector that takes ten times as long. The commands
# and the acceptance tests start programs that are built without it; the supervisor's side of the latter runs with it
# once more, with fewer faults. The clients of others take most of their tests' time, and what they reach runs with it in
# server's own tests. A tokenizer and a template are pure functions; the tests that share one run with it.
slow='/(backends|server/acceptance|server/clienttest|server/deploy|server/dashboard)(/|$)|/(server/cmd/pimoe|core/tokenizer(/jinja)?)$'
plain_packages=$($GO list $PKGS | grep -E "$slow")
race_packages=$($GO list $PKGS | grep -vE "$slow")

# Tests of these packages wait much and long. They come first, or at the end the last would run alone; and for what they leave idle one
# more than there are cores runs at a time.
long='/(server|server/acceptance|server/clienttest|sdk/sdktest|sdk/client|core/host|core/engine)$'
parallel=$(($(getconf _NPROCESSORS_ONLN) + 1))

run_tests() { # PACKAGES GO-TEST-ARGS...: tests with the report
  local packages=$1
  shift
  [ -n "$packages" ] || return 0
  packages="$(grep -E "$long" <<<"$packages") $(grep -vE "$long" <<<"$packages")"
  $GO test -json -count=1 -vet=off -timeout 15m -p "$parallel" "$@" $packages 2>&1 | "$work/testreport" -save "$skips"
}
race_tests() { # PACKAGES GO-TEST-ARGS...: the same with the race detector, which needs cgo; what tests build themselves doesn't
  local packages=$1
  shift
  CGO_ENABLED=1 run_tests "$packages" -race -exec "env CGO_ENABLED=0" "$@"
}

# aside STEPS runs a function's steps beside others; joined waits for them, shows what they said and takes their failures over. No
# test that looks at the time runs meanwhile: what has a low priority still holds locks of the file system, and others wait.
aside() {
  (
    failed=()
    "$1"
    printf '%s\n' "${failed[@]}" >"$work/$1.failed"
  ) >"$work/$1.said" 2>&1 &
  beside+=("$1 $!")
}
beside=()
joined() { # STEPS
  local steps name
  for steps in "${beside[@]}"; do
    [ "${steps% *}" = "$1" ] && wait "${steps#* }"
  done
  cat "$work/$1.said"
  [ -e "$work/$1.failed" ] || failed+=("$1")
  while read -r name; do
    [ -z "$name" ] || failed+=("$name")
  done <"$work/$1.failed"
}

clients() { # what the tests of others' clients need, and the clients that are generated
  if command -v npm >/dev/null 2>&1 && python3 -c 'import venv, ensurepip' 2>/dev/null; then
    step "client libraries" server/clienttest/setup.sh
    step "Schemathesis" server/clienttest/description.sh
    step "generated clients" scripts/sdk.sh --check
  else
    skip "clients" "no npm, or no python3 with venv (Debian: npm, python3-venv)"
  fi
}

builds() { # everything that is only built or checked
  step "other systems" make --no-print-directory cross-check GO="$GO"
  step "compose specification" composed
  step "Kubernetes manifests" manifests
  if command -v gcc >/dev/null 2>&1; then
    step "CUDA on the emulated driver" cuda
  else
    skip "CUDA" "no C compiler (Debian: gcc)"
  fi
}

# generated: the committed files of the wire protocol are what the generator makes.
generated() {
  if ! command -v protoc >/dev/null 2>&1; then
    skip "generated files" "no protoc (Debian: protobuf-compiler)"
    return 0
  fi
  cp -r sdk/internal/pb "$work/pb" || return 1
  sdk/proto/generate.sh || return 1
  diff -r "$work/pb" sdk/internal/pb || { echo "sdk/internal/pb is not what sdk/proto/generate.sh makes"; return 1; }
  cp -r server/oip/pb "$work/oip" || return 1
  server/oip/generate.sh || return 1
  diff -r "$work/oip" server/oip/pb || { echo "server/oip/pb is not what server/oip/generate.sh makes"; return 1; }
}

cuda() { # the CUDA backend, which only the build tag has
  command -v clang-19 >/dev/null 2>&1 || skip "generated PTX" "no clang-19 (Debian: clang-19)"
  GO=$GO scripts/cuda/test.sh
}

outside() { # the report's own tests: it is a module of its own
  (cd scripts/testreport && $GO vet ./... && $GO test ./...)
}

mutation() { # the tool's own tests: they make a few mutants, and see that the tests of this tree catch them
  (cd scripts/mutate && $GO vet ./... && $GO test ./...)
}

manifests() { # against the types of the Kubernetes API; make kube-check also builds Helm
  (cd scripts/kubecheck && $GO test -count=1 -vet=off .)
}

composed() { # compose's own library: it is a module of its own, since nothing else needs it
  (cd scripts/composecheck && $GO vet ./... && $GO run . ../../deploy/compose/compose.yaml)
}

# As the programs are built: what they need is compiled once for them and for the tests.
export CGO_ENABLED=0 GOFLAGS="-trimpath${GOFLAGS:+ $GOFLAGS}"
(cd scripts/testreport && $GO build -o "$work/testreport" .) || exit 1
export PIMOE_BIN="$PWD/bin"
unset PIMOE_CONFIG PIMOE_HOME PIMOE_MODEL PIMOE_API_KEY PIMOE_API_KEY_FILE PIMOE_MODE

step "gofmt" format
aside clients
step "vet" $GO vet $PKGS
aside builds
step "report" outside
step "generated files" generated
joined clients
joined builds
if command -v gcc >/dev/null 2>&1 && [ "$($GO env GOARCH)" != 386 ]; then
  step "tests with the race detector" race_tests "$race_packages"
  step "shared tokenizer" race_tests "$($GO list ./core/tokenizer/...)" -run 'TestConcurrentUse|TestTemplateIsShared'
else
  skip "race detector" "no C compiler (Debian: gcc)"
  step "tests" run_tests "$race_packages"
fi
step "tests of kernels, trunk and the whole" run_tests "$plain_packages"
if command -v gcc >/dev/null 2>&1; then
  PIMOE_KILLS=18 \
    step "supervision with the race detector" race_tests ./server/acceptance -run 'TestKill$|TestStop$|TestImpossibleRestart'
fi
step "simulated faults" run_tests ./core/host -v -run 'Simulation|Machines'
step "mutation tool" mutation

"$work/testreport" -summary -allowed scripts/allowed-skips.txt "$skips" || failed+=("skipped tests")
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED: ${failed[*]} ($SECONDS s)"
  exit 1
fi
echo "All passed ($SECONDS s)."
