{{- define "embeddaemon.name" -}}
{{- printf "%s-embeddaemon" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "embeddaemon.selector" -}}
app.kubernetes.io/name: embeddaemon
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "embeddaemon.labels" -}}
{{ include "embeddaemon.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "embeddaemon.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "embeddaemon.restricted" -}}
runAsNonRoot: true
runAsUser: {{ .Values.user }}
runAsGroup: {{ .Values.group }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "embeddaemon.probe" -}}
exec:
  command: [embeddaemon, status, --timeout, "5"]
timeoutSeconds: 10
{{- end -}}

{{/* What a daemon is, wherever it runs: all of its container but the name, the endpoint and the restart policy. */}}
{{- define "embeddaemon.container" -}}
image: {{ include "embeddaemon.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - serve
  - --memory-budget
  - {{ .Values.memoryBudget | quote }}
  - --log-format
  - {{ .Values.logFormat }}
resources:
{{ toYaml .Values.resources | indent 2 }}
startupProbe:
{{ include "embeddaemon.probe" . | indent 2 }}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
{{ include "embeddaemon.probe" . | indent 2 }}
  periodSeconds: 30
  failureThreshold: 3
readinessProbe:
  exec:
    command: [embeddaemon, health, --timeout, "5"]
  timeoutSeconds: 10
  periodSeconds: 15
  failureThreshold: 2
securityContext:
{{ include "embeddaemon.restricted" . | indent 2 }}
volumeMounts:
  - name: embeddaemon-socket
    mountPath: /run/embeddaemon
  - name: embeddaemon-state
    mountPath: /var/lib/embeddaemon
  - name: embeddaemon-cache
    mountPath: /var/cache/embeddaemon
    subPath: models
{{- if .Values.config }}
  - name: embeddaemon-config
    mountPath: /etc/embeddaemon
    readOnly: true
{{- end }}
{{- if .Values.volumeMounts }}
{{ toYaml .Values.volumeMounts | indent 2 }}
{{- end }}
{{- end -}}

{{/* Makes the folder of fetched models, the daemon's own below their volume: to an emptyDir everybody may write, and models
from such a folder it refuses. */}}
{{- define "embeddaemon.cacheFolder" -}}
- name: cache
  image: {{ include "embeddaemon.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [mkdir, -p, -m, "0750", /cache/models]
  resources:
    requests:
      cpu: 10m
      memory: 16Mi
    limits:
      memory: 32Mi
  securityContext:
{{ include "embeddaemon.restricted" . | indent 4 }}
  volumeMounts:
    - name: embeddaemon-cache
      mountPath: /cache
{{- end -}}

{{/* Volumes of a daemon but that of the socket. */}}
{{- define "embeddaemon.ownVolumes" -}}
- name: embeddaemon-state
  emptyDir:
    sizeLimit: 64Mi
- name: embeddaemon-cache
{{ toYaml .Values.cache | indent 2 }}
{{- if .Values.config }}
- name: embeddaemon-config
  configMap:
    name: {{ include "embeddaemon.name" . }}
{{- end }}
{{- if .Values.volumes }}
{{ toYaml .Values.volumes }}
{{- end }}
{{- end -}}

{{/* For a pod of yours: elements of initContainers. */}}
{{- define "embeddaemon.sidecar" -}}
{{ include "embeddaemon.cacheFolder" . }}
- name: embeddaemon
  restartPolicy: Always
  env:
    # In a folder that the daemon makes for itself: everybody may write to that of the volume.
    - name: EMBEDDAEMON_ENDPOINT
      value: ipc:///run/embeddaemon/socket/embeddaemon.sock
{{- if .Values.env }}
{{ toYaml .Values.env | indent 4 }}
{{- end }}
{{ include "embeddaemon.container" . | indent 2 }}
{{- end -}}

{{/* For a pod of yours: elements of volumes. */}}
{{- define "embeddaemon.volumes" -}}
- name: embeddaemon-socket
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{ include "embeddaemon.ownVolumes" . }}
{{- end -}}
