#!/usr/bin/env bash
# Installs what the tests need beyond Go and make, where it may: Debian packages as root or through sudo. What stays
# missing is told by the tests themselves. It never fails: a machine that can't have a tool can still run the rest.
set -uo pipefail

packages=()
want() { command -v "$1" >/dev/null 2>&1 || packages+=("$2"); }
want gcc gcc
want protoc protobuf-compiler
want node nodejs
want npm npm
want python3 python3
command -v python3 >/dev/null 2>&1 && python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
[ -x /usr/bin/python3 ] && ! /usr/bin/python3 -c 'import venv, ensurepip' 2>/dev/null && packages+=(python3-venv)
[ -x /usr/bin/python3 ] || packages+=(python3 python3-venv)
want curl curl
[ -x /usr/sbin/nginx ] || want nginx nginx-light
want redis-server redis-server
want ip iproute2 # network namespaces of the tests of remote experts
want amtool prometheus-alertmanager
want redis-cli redis-tools
want systemd-analyze systemd # it verifies the units of deploy/systemd
want openssl openssl
want clang-19 clang-19 # makes the PTX of the CUDA kernels anew
want chromium chromium # of the console's tests
want promtool prometheus # of metrics, rules and dashboards
[ -e /usr/include/nghttp2/nghttp2.h ] || packages+=(libnghttp2-dev)
[ -e /usr/include/openssl/ssl.h ] || packages+=(libssl-dev)

if [ ${#packages[@]} -eq 0 ]; then
  exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
  else
    echo "setup: missing ${packages[*]}; not root, and sudo asks for a password, so they are not installed"
    exit 0
  fi
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "setup: missing ${packages[*]}; no apt-get here, so they are not installed"
  exit 0
fi
echo "setup: installing ${packages[*]}"
install() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; }
each() { # a package that this system has not must not keep the others away
  local p missing=0
  for p in "${packages[@]}"; do install "$p" || missing=1; done
  return $missing
}
"${as_root[@]}" apt-get update -qq &&
  { install "${packages[@]}" || each; } ||
  echo "setup: could not install ${packages[*]}"
exit 0
