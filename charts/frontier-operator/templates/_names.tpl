{{- define "operator.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}{{ $name = .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}{{ $name = .Release.Name }}
{{- else }}{{ $name = printf "%s-%s" .Release.Name $name }}
{{- end }}
{{- $name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "operator.selector" -}}
app.kubernetes.io/name: {{ include "operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "operator.selector" . }}
{{- end }}

{{- define "operator.serviceAccount" -}}
{{- $account := .Values.serviceAccount }}
{{- if $account.create }}{{ default (include "operator.fullname" .) $account.name }}{{ else }}{{ default "default" $account.name }}{{ end }}
{{- end }}

{{- /* The rules of a role in operator.yaml, which deploy/install.yaml is made of: (dict "root" $ "kind" …). */}}
{{- define "operator.rules" -}}
{{- range $text := splitList "\n---\n" (.root.Files.Get "operator.yaml") }}
{{- $object := fromYaml $text }}
{{- if eq (default "" $object.kind) $.kind }}{{ toYaml $object.rules }}{{ end }}
{{- end }}
{{- end }}
