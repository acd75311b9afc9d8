package compose

import "github.com/pimoe/pimoe/server/deploy"

// file is compose.yaml. The extension fields are what all containers have; YAML's merge keys put them in.
var file = deploy.Template("compose.yaml", `{{note}}
#
#   ./secrets.sh                                  # once: makes the secrets that are missing
#   docker compose up -d                          # the first host: http://127.0.0.1:{{.Ports.HTTP}}
#   docker compose --profile proxy --profile cache --profile monitoring --profile logs --profile tracing up -d
#
# Profiles: proxy (all hosts behind nginx), cache (Redis), monitoring (Prometheus, Alertmanager, Grafana), logs (Loki,
# promtail), tracing (the OpenTelemetry collector).
name: {{.Name}}

x-confined: &confined
  restart: unless-stopped
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  logging:
    driver: json-file
    options: {max-size: 10m, max-file: "3"}

x-host: &host
  <<: *confined
  image: {{.Image.Ref}}
  user: "65532:65532"
  environment:
    PIMOE_CONFIG: /etc/pimoe/pimoe.yaml
    PIMOE_HOME: /data
    PIMOE_SERVER__ADDR: 0.0.0.0:{{.Ports.HTTP}} # the image has one, which would win over the file's
    PIMOE_API_KEY_FILE: /run/secrets/api_key
    PIMOE_REDIS__PASSWORD_FILE: /run/secrets/redis_password
  secrets: [api_key, redis_password, keys.json]
  stop_grace_period: 45s # the host lets requests end for 30 s
  cpus: {{.Resources.CPUs}}
  mem_limit: {{.Resources.MemoryMB}}m
  pids_limit: 1024
  ulimits: {nofile: 65536, core: 0}
  tmpfs: ["/tmp:size=64m,mode=1777"]
  labels:
    org.pimoe.environment: {{.Environment}}
    org.pimoe.profile: {{.Profile}}
{{- if .Region}}
    org.pimoe.region: {{.Region}}
{{- end}}
  healthcheck:
    test: [CMD, /usr/local/bin/pimoe, health]
    interval: 10s
    timeout: 6s
    start_period: 60s
    retries: 3

services:
{{- range .Hosts}}
  {{.Name}}:
    <<: *host
{{- if gt .Number 1}}
    profiles: [proxy]
{{- end}}
    volumes:
      - {type: bind, source: ./pimoe.yaml, target: /etc/pimoe/pimoe.yaml, read_only: true}
      - {type: volume, source: data-{{.Number}}, target: /data}
{{- if $.Store.Volume}}
      - {type: volume, source: models, target: /data/models, read_only: true}
{{- end}}
    networks:
      inside: {ipv4_address: {{.Address}}}
      outside: {}
{{- if eq .Number 1}}
    ports: ["{{$.Open}}:{{$.Ports.HTTP}}:{{$.Ports.HTTP}}"]
{{- end}}
{{- end}}

  nginx:
    <<: *confined
    image: {{.Images.nginx}}
    profiles: [proxy]
    depends_on:
{{- range .Hosts}}
      {{.Name}}: {condition: service_healthy}
{{- end}}
    volumes:
      - {type: bind, source: ./nginx.conf, target: /etc/nginx/nginx.conf, read_only: true}
    secrets: [tls.crt, tls.key]
    ulimits: {nofile: 65536}
    tmpfs: ["/tmp:size=256m,mode=1777"]
    cpus: 1
    mem_limit: 512m
    pids_limit: 64
    networks:
      inside: {ipv4_address: {{.Proxied}}}
      outside: {}
    ports: ["{{.Proxy.HTTP}}:8080", "{{.Proxy.HTTPS}}:8443"]
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1:8080/proxyz"]
      interval: 10s
      timeout: 3s
      retries: 3

  redis:
    <<: *confined
    image: {{.Images.redis}}
    profiles: [cache]
    user: "999:1000"
    # The password comes on standard input: a command line is visible to every process.
    command: [sh, -c, '{ cat /etc/redis.conf; printf "requirepass %s\n" "$$(cat /run/secrets/redis_password)"; } | exec redis-server -']
    volumes:
      - {type: bind, source: ./redis.conf, target: /etc/redis.conf, read_only: true}
    secrets: [redis_password]
    cpus: 1
    mem_limit: 384m
    pids_limit: 32
    networks: [inside]
    healthcheck:
      test: [CMD-SHELL, 'REDISCLI_AUTH="$$(cat /run/secrets/redis_password)" redis-cli -p {{.Ports.Redis}} ping | grep -q PONG']
      interval: 10s
      timeout: 3s
      retries: 3

  prometheus:
    <<: *confined
    image: {{.Images.prometheus}}
    profiles: [monitoring]
    user: "65534:65534"
    command:
      - --config.file=/etc/prometheus/prometheus.yml
      - --storage.tsdb.path=/prometheus
      - --storage.tsdb.retention.time=15d
      - --web.listen-address=:{{.Ports.Prometheus}}
    volumes:
      - {type: bind, source: ../monitoring/prometheus.yml, target: /etc/prometheus/prometheus.yml, read_only: true}
      - {type: bind, source: ../monitoring/rules, target: /etc/prometheus/rules, read_only: true}
      - {type: volume, source: prometheus, target: /prometheus}
    secrets: [metrics_key]
    cpus: 1
    mem_limit: 1g
    pids_limit: 128
    networks: [inside, outside]
    ports: ["{{.Open}}:{{.Ports.Prometheus}}:{{.Ports.Prometheus}}"]

  alertmanager:
    <<: *confined
    image: {{.Images.alertmanager}}
    profiles: [monitoring]
    user: "65534:65534"
    command:
      - --config.file=/etc/alertmanager/alertmanager.yml
      - --storage.path=/alertmanager
      - --web.listen-address=:{{.Ports.Alertmanager}}
      - --cluster.listen-address=
    volumes:
      - {type: bind, source: ../monitoring/alertmanager.yml, target: /etc/alertmanager/alertmanager.yml, read_only: true}
      - {type: volume, source: alertmanager, target: /alertmanager}
    cpus: 1
    mem_limit: 256m
    pids_limit: 128
    networks: [inside, outside]
    ports: ["{{.Open}}:{{.Ports.Alertmanager}}:{{.Ports.Alertmanager}}"]

  grafana:
    <<: *confined
    image: {{.Images.grafana}}
    profiles: [monitoring]
    user: "472:0"
    environment:
      GF_SERVER_HTTP_PORT: "{{.Ports.Grafana}}"
      GF_SECURITY_ADMIN_PASSWORD__FILE: /run/secrets/grafana_password
      GF_ANALYTICS_REPORTING_ENABLED: "false"
      GF_ANALYTICS_CHECK_FOR_UPDATES: "false"
      GF_USERS_ALLOW_SIGN_UP: "false"
    volumes:
      - {type: bind, source: ../monitoring/grafana/provisioning, target: /etc/grafana/provisioning, read_only: true}
      - {type: bind, source: ../monitoring/grafana/dashboards, target: /var/lib/grafana/dashboards, read_only: true}
      - {type: volume, source: grafana, target: /var/lib/grafana}
    secrets: [grafana_password]
    tmpfs: ["/tmp:size=64m,mode=1777"]
    cpus: 1
    mem_limit: 512m
    pids_limit: 128
    networks: [inside, outside]
    ports: ["{{.Open}}:{{.Ports.Grafana}}:{{.Ports.Grafana}}"]

  loki:
    <<: *confined
    image: {{.Images.loki}}
    profiles: [logs]
    user: "10001:10001"
    command: [-config.file=/etc/loki/loki.yml]
    volumes:
      - {type: bind, source: ../monitoring/loki.yml, target: /etc/loki/loki.yml, read_only: true}
      - {type: volume, source: loki, target: /loki}
    tmpfs: ["/tmp:size=64m,mode=1777"]
    cpus: 1
    mem_limit: 1g
    pids_limit: 128
    networks: [inside]

  promtail:
    <<: *confined
    image: {{.Images.promtail}}
    profiles: [logs]
    # The files of the log belong to root, and who may read one reads it: no other right is needed.
    user: "0:0"
    cap_add: [DAC_READ_SEARCH]
    command: [-config.file=/etc/promtail/promtail.yml]
    volumes:
      - {type: bind, source: ../monitoring/promtail.yml, target: /etc/promtail/promtail.yml, read_only: true}
      - {type: bind, source: /var/lib/docker/containers, target: /var/lib/docker/containers, read_only: true}
      - {type: volume, source: promtail, target: /var/lib/promtail}
    tmpfs: ["/tmp:size=64m,mode=1777"]
    cpus: 1
    mem_limit: 256m
    pids_limit: 64
    networks: [inside]

  collector:
    <<: *confined
    image: {{.Images.collector}}
    profiles: [tracing]
    user: "10001:10001"
    command: [--config=/etc/otelcol/otel-collector.yml]
    volumes:
      - {type: bind, source: ../monitoring/otel-collector.yml, target: /etc/otelcol/otel-collector.yml, read_only: true}
    cpus: 1
    mem_limit: 512m
    pids_limit: 64
    networks: [inside]

networks:
  inside: # of the containers among themselves
    internal: true
    ipam: {config: [{subnet: {{.Network}}}]}
  outside: {} # for the ports that are published

volumes:
{{- range .Hosts}}
  data-{{.Number}}: {}
{{- end}}
{{- if .Store.Volume}}
  models: {name: {{.Store.Volume}}, external: true} # imported once; see docs/deploy.md
{{- end}}
  prometheus: {}
  alertmanager: {}
  grafana: {}
  loki: {}
  promtail: {}

secrets:
{{- range .Secrets}}
  {{.}}: {file: ./secrets/{{.}}}
{{- end}}
`)

// Secrets are the files that secrets.sh makes, by the names that containers find them under.
func (s stack) Secrets() []string {
	return []string{"api_key", "keys.json", "metrics_key", "redis_password", "grafana_password", "tls.crt", "tls.key"}
}

var redis = deploy.Template("redis.conf", `{{note}}
# What hosts share: limits and kept answers. Nothing in it is missed when it is gone, so nothing is written to a disk.
bind 0.0.0.0
protected-mode yes
port {{.Ports.Redis}}
daemonize no
maxmemory 256mb
maxmemory-policy allkeys-lru
save ""
appendonly no
tcp-keepalive 60
timeout 0
`)

var secrets = deploy.Template("secrets.sh", `#!/bin/sh
{{note}}
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
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN={{.Host}}" \
    -addext "subjectAltName=DNS:{{.Host}},DNS:localhost,IP:127.0.0.1" -keyout secrets/tls.key -out secrets/tls.crt 2>/dev/null
  owned 101 secrets/tls.key secrets/tls.crt
fi
`)
