#!/usr/bin/env bash
# The file systems of the images, and a way to run one without a container engine.
#
#   scripts/image.sh tree host|plugins DIR          what the Dockerfile copies into the image, out of bin (BIN)
#   scripts/image.sh run DIR DATA [ARGUMENT...]      the host's image in namespaces: its user, its variables, a read-only
#                                                    root, DATA as its volume; arguments are those of pimoe
#
# "run" needs what a container engine needs: that this user may make namespaces of users, mounts and processes. Its files
# beside the image's, such as /etc/passwd, are as the distroless base has them. PIMOE_* variables are handed on.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
user=65532 # nonroot of the base image

tree() { # KIND DIR
  local kind=$1 dir=$2 bin=${BIN:-$repo/bin} files
  case $kind in
  host) files=("$bin"/pimoe "$bin"/pimoe-* "$bin"/plugins.yaml) ;;
  plugins) files=("$bin"/pimoe-* "$bin"/plugins.yaml) ;;
  *) echo "image.sh: $kind: want host or plugins" >&2 && return 2 ;;
  esac
  install -d "$dir/usr/local/bin" "$dir/usr/share/doc/pimoe"
  install -m 755 "${files[@]}" "$dir/usr/local/bin/"
  chmod 644 "$dir/usr/local/bin/plugins.yaml"
  install -m 644 "$repo/LICENSE" "$dir/usr/share/doc/pimoe/"
  "$bin/pimoe" deploy sbom "$dir/usr/local/bin" >"$dir/usr/share/doc/pimoe/sbom.cdx.json"
}

base() { # DIR: what the base image has, as far as it matters, and where things are mounted
  local dir=$1
  install -d "$dir"/{etc/ssl/certs,proc,dev,tmp,data,etc/pimoe,run/secrets}
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:%s:%s:nonroot:/home/nonroot:/sbin/nologin\n' $user $user >"$dir/etc/passwd"
  printf 'root:x:0:\nnonroot:x:%s:\n' $user >"$dir/etc/group"
  printf 'hosts: files dns\n' >"$dir/etc/nsswitch.conf"
  if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
    install -m 644 /etc/ssl/certs/ca-certificates.crt "$dir/etc/ssl/certs/"
  fi
  for d in null zero full random urandom; do : >"$dir/dev/$d"; done
}

variables() { # those of the image and those of the caller, as words for env
  sed -n '/ AS host$/,$s/^ENV //p' "$repo/Dockerfile"
  env | grep '^PIMOE_' | grep -v '^PIMOE_BIN=' || true
}

run() { # DIR DATA ARGUMENT...
  local dir data
  dir=$(cd "$1" && pwd) data=$(cd "$2" && pwd)
  shift 2
  base "$dir"
  exec unshare --user --map-root-user --mount --pid --fork --kill-child "$repo/scripts/image.sh" inside "$dir" "$data" "$@"
}

inside() { # in the namespaces, as their root
  local dir=$1 data=$2 words
  shift 2
  mount --bind "$dir" "$dir"
  mount -t proc -o nosuid,nodev,noexec proc "$dir/proc"
  mount -t tmpfs -o nosuid,nodev,size=64m,mode=1777 tmpfs "$dir/tmp"
  mount --bind "$data" "$dir/data"
  for d in null zero full random urandom; do mount --bind "/dev/$d" "$dir/dev/$d"; done
  # Files that a compose file or a platform would mount, such as a configuration and secrets.
  for d in etc/pimoe run/secrets; do
    if [ -d "${MOUNTS:-/nonexistent}/$d" ]; then mount --bind "$MOUNTS/$d" "$dir/$d" && mount -o remount,bind,ro "$dir/$d"; fi
  done
  mount -o remount,bind,ro "$dir"
  mapfile -t words < <(variables)
  exec env -i PATH=/usr/bin:/bin "${words[@]}" setpriv --no-new-privs \
    unshare --user --map-user=$user --map-group=$user --root="$dir" --wd=/ /usr/local/bin/pimoe "${@:-serve}"
}

case ${1:-} in
tree | run | inside) "$@" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
