{{- define "pimoe.selector" -}}
app.kubernetes.io/name: pimoe
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pimoe.labels" -}}
{{ include "pimoe.selector" . }}
app.kubernetes.io/part-of: pimoe
{{- with .Values.region }}
topology.kubernetes.io/region: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "pimoe.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end }}

{{- /* What every pod of the release may do: the restricted profile, and no key to the cluster's API. */ -}}
{{- define "pimoe.pod" -}}
serviceAccountName: {{ .Release.Name }}
automountServiceAccountToken: false
enableServiceLinks: false # variables of a Service named pimoe look like settings
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.region }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - key: topology.kubernetes.io/region
              operator: In
              values: [{{ . | quote }}]
{{- end }}
{{- end }}

{{- define "pimoe.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  readOnlyRootFilesystem: true
{{- end }}

{{- /* A store unpacked from a snapshot, before the first process looks for it. */ -}}
{{- define "pimoe.unpack" -}}
initContainers:
  - name: store
    image: {{ .Values.store.image | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [sh, -euc, 'tar -xzf "$SNAPSHOT" -C "$PIMOE_HOME"']
    env:
      - name: SNAPSHOT
        value: /snapshot/store.tar.gz
      - name: PIMOE_HOME
        value: /data
    {{- include "pimoe.container" . | nindent 4 }}
    resources:
      requests:
        cpu: 100m
        memory: 128Mi
      limits:
        memory: 128Mi
    volumeMounts:
      - name: data
        mountPath: /data
{{- end }}

{{- define "pimoe.data" -}}
- name: data
  emptyDir:
    sizeLimit: {{ .Values.store.sizeMB }}Mi
{{- if .Values.store.claim }}
- name: models
  persistentVolumeClaim:
    claimName: {{ .Values.store.claim }}
    readOnly: true
{{- end }}
{{- end }}

{{- define "pimoe.mounts" -}}
- name: data
  mountPath: /data
{{- if .Values.store.claim }}
- name: models
  mountPath: /data/models
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- end }}

{{- /* The host's configuration: config, and where the groups are. */ -}}
{{- define "pimoe.config" -}}
{{- $remote := dict }}
{{- if .Values.groups }}
{{- $remote = include "pimoe.remote" . | fromYaml }}
{{- end }}
{{- merge $remote .Values.config | toYaml }}
{{- end }}

{{- define "pimoe.remote" -}}
experts:
  group:
    {{- range .Values.groups }}
    {{ .name }}:
      {{- toYaml .units | nindent 6 }}
    {{- end }}
  remote:
    {{- range .Values.groups }}
    - group: {{ .name }}
      dns: {{ $.Release.Name }}-{{ .name }}.{{ $.Release.Namespace }}.svc:{{ $.Values.ports.expert }}
      tls:
        cert_file: /run/secrets/pimoe-expert/tls.crt
        key_file: /run/secrets/pimoe-expert/tls.key
        ca_file: /run/secrets/pimoe-expert/ca.crt
    {{- end }}
{{- end }}
