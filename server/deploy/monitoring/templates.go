package monitoring

import "text/template"

// templates are the files by path; the rules and the dashboards are made otherwise.
var templates = map[string]*template.Template{
	"prometheus.yml":   parse(prometheus),
	"alertmanager.yml": parse(alertmanager),
	"grafana/provisioning/datasources/pimoe.yml": parse(datasources),
	"grafana/provisioning/dashboards/pimoe.yml":  parse(providers),
	"loki.yml":           parse(loki),
	"promtail.yml":       parse(promtail),
	"otel-collector.yml": parse(collector),
}

func parse(text string) *template.Template { return template.Must(template.New("").Parse(text)) }

// prometheus names each host, so that one that is gone is missed: of names that are looked up, a host that has ended would
// vanish without an alert.
const prometheus = `global:
  scrape_interval: {{.Monitoring.ScrapeSeconds}}s
  evaluation_interval: {{.Monitoring.ScrapeSeconds}}s
rule_files: [rules/*.yml]
alerting:
  alertmanagers:
    - static_configs:
        - targets: ["alertmanager:{{.Ports.Alertmanager}}"]
scrape_configs:
  - job_name: pimoe
    authorization: {credentials_file: {{.MetricsKey}}}
    sample_limit: 50000 # a host prints a few thousand
    static_configs:
      - targets:
{{- range .Hosts}}
          - {{.}}
{{- end}}
        labels: {environment: {{.Environment}}}
  - job_name: prometheus
    static_configs:
      - targets: ["localhost:{{.Ports.Prometheus}}"]
`

const alertmanager = `route:
  receiver: operators
  group_by: [alertname, environment]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 4h
  routes:
    - matchers: [severity="critical"]
      group_wait: 10s
      repeat_interval: 1h
    - matchers: [severity="info"]
      repeat_interval: 24h
inhibit_rules:
  # What is down explains all that is wrong with it.
  - source_matchers: [alertname="PimoeDown"]
    target_matchers: [alertname!="PimoeDown", alertname=~"Pimoe.+"]
    equal: [instance]
  - source_matchers: [alertname="PimoeBudgetBurnsFast"]
    target_matchers: [alertname="PimoeBudgetBurns"]
    equal: [environment]
receivers:
  - name: operators
{{- if .Monitoring.Webhook}}
    webhook_configs:
      - url: {{printf "%q" .Monitoring.Webhook}}
        send_resolved: true
{{- end}}
`

const datasources = `apiVersion: 1
datasources:
  - name: Prometheus
    uid: prometheus
    type: prometheus
    access: proxy
    url: http://prometheus:{{.Ports.Prometheus}}
    isDefault: true
    jsonData: {timeInterval: {{.Monitoring.ScrapeSeconds}}s}
  - name: Loki
    uid: loki
    type: loki
    access: proxy
    url: http://loki:{{.Ports.Loki}}
  - name: Alertmanager
    uid: alertmanager
    type: alertmanager
    access: proxy
    url: http://alertmanager:{{.Ports.Alertmanager}}
    jsonData: {implementation: prometheus}
`

const providers = `apiVersion: 1
providers:
  - name: PiMoE
    folder: PiMoE
    type: file
    disableDeletion: true
    allowUiUpdates: false
    options: {path: {{.Dashboards}}}
`

const loki = `auth_enabled: false
server:
  http_listen_port: {{.Ports.Loki}}
common:
  path_prefix: /loki
  replication_factor: 1
  ring: {kvstore: {store: inmemory}}
  storage:
    filesystem: {chunks_directory: /loki/chunks, rules_directory: /loki/rules}
schema_config:
  configs:
    - from: "2026-01-01"
      store: tsdb
      object_store: filesystem
      schema: v13
      index: {prefix: index_, period: 24h}
limits_config:
  retention_period: {{.Retention}}h
  allow_structured_metadata: true
  max_line_size: 64KB
compactor:
  working_directory: /loki/compactor
  retention_enabled: true
  delete_request_store: filesystem
analytics:
  reporting_enabled: false
`

// promtail keeps the level as a label: it has few values. What has many (requests, traces) is kept beside the line.
const promtail = `server:
  http_listen_port: 9080
  grpc_listen_port: 0
positions:
  filename: /var/lib/promtail/positions.yaml
clients:
  - url: http://loki:{{.Ports.Loki}}/loki/api/v1/push
scrape_configs:
  - job_name: {{.Name}}
    static_configs:
      - targets: [localhost]
        labels:
          job: {{.Name}}
          environment: {{.Environment}}
          __path__: /var/lib/docker/containers/*/*-json.log
    pipeline_stages:
      - docker: {}
      - json:
          expressions: {time: '"@timestamp"', level: '"@level"', request: request, trace: trace_id, group: group}
      - timestamp: {source: time, format: RFC3339Nano}
      - labels: {level: level}
      - structured_metadata: {request: request, trace: trace, group: group}
`

const collector = `receivers:
  otlp:
    protocols:
      grpc: {endpoint: "0.0.0.0:{{.Ports.OTLP}}"}
processors:
  memory_limiter: {check_interval: 1s, limit_mib: 384, spike_limit_mib: 96}
  batch: {timeout: 5s, send_batch_size: 1024}
exporters:
  debug: {verbosity: basic}
  otlphttp/loki: {endpoint: "http://loki:{{.Ports.Loki}}/otlp"}
{{- if .Monitoring.Traces}}
  otlp/traces: {endpoint: {{printf "%q" .Monitoring.Traces}}}
{{- end}}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], processors: [memory_limiter, batch], exporters: [{{if .Monitoring.Traces}}otlp/traces{{else}}debug{{end}}]}
    logs: {receivers: [otlp], processors: [memory_limiter, batch], exporters: [otlphttp/loki]}
`
