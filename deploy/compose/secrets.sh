#!/bin/sh
# Rendered by pimoe deploy render: change the values and render again.
#
# Makes the secrets of compose.yaml in ./secrets, as far as they are missing, and never changes one that is there. It needs
# pimoe (or its path in PIMOE) and, for a certificate that only tests should trust, openssl; put your own tls.crt and
# tls.key there instead. Containers have users of their own: run it as root, so that each file can belong to its reader.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
chmod 711 secrets
pimoe=${PIMOE:-pimoe}

random() { LC_ALL=C tr -dc A-Za-z0-9 </dev/urandom | head -c 40; }
owned() { # UID FILE...: by its only reader, where that may be said
  uid=$1
  shift
  if [ "$(id -u)" -eq 0 ]; then
    chown "$uid" "$@"
    chmod 400 "$@"
  else
    echo "secrets.sh: not root: chown $uid $* before docker compose up" >&2
  fi
}

[ -e secrets/api_key ] || { random >secrets/api_key; owned 65532 secrets/api_key; }
if [ ! -e secrets/metrics_key ]; then
  "$pimoe" keys create --role viewer --scopes metrics --name prometheus --set auth.keys_file="$PWD/secrets/keys.json" >secrets/metrics_key
  owned 65534 secrets/metrics_key
  owned 65532 secrets/keys.json
fi
[ -e secrets/redis_password ] || { random >secrets/redis_password; chmod 444 secrets/redis_password; } # two readers
[ -e secrets/grafana_password ] || { random >secrets/grafana_password; owned 472 secrets/grafana_password; }
if [ ! -e secrets/tls.key ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=pimoe.example.com" \
    -addext "subjectAltName=DNS:pimoe.example.com,DNS:localhost,IP:127.0.0.1" -keyout secrets/tls.key -out secrets/tls.crt 2>/dev/null
  owned 101 secrets/tls.key secrets/tls.crt
fi
