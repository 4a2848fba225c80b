{{- define "tpw-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "tpw-exporter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "tpw-exporter.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tpw-exporter.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tpw-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tpw-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tpw-exporter.labels" -}}
{{ include "tpw-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: exporter
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* Name of the DaemonSet and the ConfigMap, of a node pool if it is of one. */}}
{{- define "tpw-exporter.poolName" -}}
{{- if .Values.pool -}}
{{- printf "%s-%s" (include "tpw-exporter.fullname" . | trunc 40 | trimSuffix "-") .Values.pool -}}
{{- else -}}
{{- include "tpw-exporter.fullname" . -}}
{{- end -}}
{{- end -}}

{{- define "tpw-exporter.poolLabels" -}}
{{ include "tpw-exporter.selectorLabels" . }}
{{- with .Values.pool }}
tpw-exporter/pool: {{ . }}
{{- end }}
{{- end -}}

{{/* A template for each node pool, with its values over those of the chart; once, with these, where there are none. */}}
{{- define "tpw-exporter.forEachPool" -}}
{{- $root := .root -}}
{{- $template := .template -}}
{{- range $name, $values := default (dict "" dict) $root.Values.nodePools -}}
{{- $merged := mergeOverwrite (deepCopy $root.Values) (deepCopy $values) (dict "pool" $name) -}}
{{- $context := dict "Values" $merged "Chart" $root.Chart "Release" $root.Release "Capabilities" $root.Capabilities "Files" $root.Files "Template" $root.Template -}}
{{- if $name }}
---
{{ end -}}
{{ include $template $context }}
{{- end -}}
{{- end -}}

{{- define "tpw-exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tpw-exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "tpw-exporter.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The configuration file, with the settings that the mounts require. */}}
{{- define "tpw-exporter.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $host := deepCopy (default (dict) (get $config "host")) -}}
{{- with .Values.web.allowedHosts -}}
{{- $_ := set $config "web" (merge (dict "allowed_hosts" .) (default (dict) (get $config "web"))) -}}
{{- end -}}
{{- if .Values.rapl.enabled -}}
{{- $host = mergeOverwrite (dict "sysfs" "/host/sys") $host -}}
{{- else if not (hasKey $host "meters") -}}
{{- $_ := set $host "meters" list -}}
{{- end -}}
{{- toYaml (mergeOverwrite $config (dict "host" $host)) -}}
{{- end -}}

{{/* The endpoint of a PodMonitor or a ServiceMonitor. */}}
{{- define "tpw-exporter.endpoint" -}}
- port: metrics
  interval: {{ .interval }}
  scrapeTimeout: {{ .scrapeTimeout }}
  honorLabels: {{ .honorLabels }}
  {{- with .endpoint }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .relabelings }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Where the books of a node are in the volume. */}}
{{- define "tpw-exporter.stateMount" -}}
- name: state
  mountPath: /var/lib/tpw-exporter
  {{- if eq .Values.state.type "claim" }}
  subPathExpr: $(TPW_KUBERNETES_NODE)
  {{- end }}
{{- end -}}

{{- define "tpw-exporter.nodeName" -}}
- name: TPW_KUBERNETES_NODE
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- end -}}
