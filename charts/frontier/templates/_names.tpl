{{- define "frontier.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "frontier.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}{{ $name = .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}{{ $name = .Release.Name }}
{{- else }}{{ $name = printf "%s-%s" .Release.Name $name }}
{{- end }}
{{- $name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Everything below about a component takes (dict "root" $ "part" "frontier"|"frontlas"). */}}

{{- define "frontier.part" -}}
{{ printf "%s-%s" (include "frontier.fullname" .root) .part | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "frontier.selector" -}}
app.kubernetes.io/name: {{ include "frontier.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "frontier.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: {{ include "frontier.name" .root }}
{{ include "frontier.selector" . }}
{{- end }}

{{- define "frontier.serviceAccount" -}}
{{- $account := (get .root.Values .part).serviceAccount }}
{{- if $account.create }}{{ default (include "frontier.part" .) $account.name }}{{ else }}{{ default "default" $account.name }}{{ end }}
{{- end }}

{{- define "frontier.image" -}}
{{- $image := (get .root.Values .part).image }}
{{- printf "%s/%s:%s" (default .root.Values.global.registry $image.registry) $image.repository (default .root.Chart.AppVersion $image.tag) }}
{{- end }}

{{- /* The Redis of the chart: `<release>-redis`, or the release itself if it is called that. */}}
{{- define "frontier.redis" -}}
{{- if contains "redis" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-redis" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "frontier.redis.selector" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "frontier.redis.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ include "frontier.name" . }}
{{ include "frontier.redis.selector" . }}
{{- end }}

{{- define "frontier.redis.secret" -}}
{{ default (include "frontier.redis" .) .Values.redis.auth.existingSecret }}
{{- end }}

{{- /* A value of a Secret that is there, else something random: (dict "root" $ "name" … "key" … "length" …). Base64. */}}
{{- define "frontier.kept" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .name }}
{{- $kept := "" }}
{{- if $secret }}{{ $kept = get (default dict $secret.data) .key }}{{ end }}
{{- default (.random | b64enc) $kept }}
{{- end }}
