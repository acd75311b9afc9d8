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
    image: {{ .Values.store.snapshot | quote }}
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
  {{- if .Values.store.claim }}
  persistentVolumeClaim:
    claimName: {{ .Values.store.claim }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.store.sizeMB }}Mi
  {{- end }}
{{- end }}
