{{- /* A probe: ours, with what the values name in its place: (dict "ours" … "values" …). */}}
{{- define "frontier.probe" -}}
{{- $ours := .ours }}
{{- range $way := list "httpGet" "tcpSocket" "exec" "grpc" }}
{{- if hasKey $.values $way }}{{ $ours = omit $ours "httpGet" "tcpSocket" "exec" "grpc" }}{{ end }}
{{- end }}
{{- toYaml (merge dict .values $ours) }}
{{- end }}

{{- /* Seconds that preStop takes: those of a `sleep N` in the values, which needs a shell that the image does not have, else preStopSeconds. */}}
{{- define "frontier.preStopSeconds" -}}
{{- $seconds := .preStopSeconds | int }}
{{- $words := dig "preStop" "exec" "command" list (default dict .lifecycle) | join " " }}
{{- if regexMatch "(^|[ /])sleep +[0-9]+ *$" $words }}{{ $seconds = regexFind "[0-9]+ *$" $words | trim | int }}{{ end }}
{{- $seconds }}
{{- end }}

{{- define "frontier.lifecycle" -}}
{{- $lifecycle := deepCopy (default dict .values.lifecycle) }}
{{- $words := dig "preStop" "exec" "command" list $lifecycle | join " " }}
{{- if or (not (hasKey $lifecycle "preStop")) (regexMatch "(^|[ /])sleep +[0-9]+ *$" $words) }}
{{- $wait := list (printf "/usr/bin/%s" .part) "drain-wait" (printf "%ss" (include "frontier.preStopSeconds" .values)) }}
{{- $lifecycle = set $lifecycle "preStop" (dict "exec" (dict "command" $wait)) }}
{{- end }}
{{- toYaml $lifecycle }}
{{- end }}

{{- /* Seconds from SIGTERM to the exit: what the pod is given, without preStop and 5 s to spare; less if the values say so. */}}
{{- define "frontier.drainSeconds" -}}
{{- $most := max 1 (sub (sub (int .terminationGracePeriodSeconds) (include "frontier.preStopSeconds" . | int)) 5) }}
{{- if kindIs "invalid" .drainSeconds }}{{ $most }}{{ else }}{{ min $most (int .drainSeconds) }}{{ end }}
{{- end }}

{{- /* The Deployment of a component: (dict "root" $ "part" … "checksum" … "ports" … "env" … "volumes" … "mounts" …). */}}
{{- define "frontier.deployment" -}}
{{- $values := get .root.Values .part }}
{{- $admin := get .root.Values.observability .part }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "frontier.part" . }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels: {{- include "frontier.labels" . | nindent 4 }}
spec:
  {{- if not (dig "autoscaling" "enabled" false $values) }}
  replicas: {{ $values.replicaCount }}
  {{- end }}
  strategy: {{- toYaml $values.strategy | nindent 4 }}
  selector:
    matchLabels: {{- include "frontier.selector" . | nindent 6 }}
  template:
    metadata:
      annotations:
        checksum/config: {{ .checksum }}
        {{- with $values.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
      labels:
        {{- include "frontier.selector" . | nindent 8 }}
        {{- with $values.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      serviceAccountName: {{ include "frontier.serviceAccount" . }}
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      {{- with .root.Values.global.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{- toYaml $values.podSecurityContext | nindent 8 }}
      {{- with $values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.topologySpreadConstraints }}
      topologySpreadConstraints: {{- toYaml . | nindent 8 }}
      {{- end }}
      affinity:
        {{- if $values.affinity }}
        {{- toYaml $values.affinity | nindent 8 }}
        {{- else }}
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm:
                topologyKey: kubernetes.io/hostname
                labelSelector:
                  matchLabels: {{- include "frontier.selector" . | nindent 20 }}
        {{- end }}
      containers:
        - name: {{ .part }}
          image: {{ include "frontier.image" . | quote }}
          imagePullPolicy: {{ default .root.Values.global.imagePullPolicy $values.image.pullPolicy }}
          args: ["--config", "/usr/conf/{{ .part }}.yaml"]
          securityContext: {{- toYaml $values.containerSecurityContext | nindent 12 }}
          env:
            {{- toYaml .env | nindent 12 }}
            {{- with $values.extraEnv }}{{ toYaml . | nindent 12 }}{{ end }}
          ports:
            {{- range $name, $port := .ports }}
            - name: {{ $name }}
              containerPort: {{ $port }}
            {{- end }}
            - name: metrics
              containerPort: {{ $admin.port }}
          livenessProbe:
            {{- $ours := dict "httpGet" (dict "path" "/healthz" "port" "metrics") "initialDelaySeconds" 10 "periodSeconds" 20 "timeoutSeconds" 3 "failureThreshold" 3 }}
            {{- include "frontier.probe" (dict "ours" $ours "values" $values.livenessProbe) | nindent 12 }}
          readinessProbe:
            {{- $ours := dict "httpGet" (dict "path" "/readyz" "port" "metrics") "periodSeconds" 5 "timeoutSeconds" 3 "failureThreshold" 3 }}
            {{- include "frontier.probe" (dict "ours" $ours "values" $values.readinessProbe) | nindent 12 }}
          {{- with $values.startupProbe }}
          startupProbe: {{- toYaml . | nindent 12 }}
          {{- end }}
          lifecycle: {{- include "frontier.lifecycle" (dict "part" .part "values" $values) | nindent 12 }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - name: config
              mountPath: /usr/conf/
            {{- with .mounts }}{{ toYaml . | nindent 12 }}{{ end }}
            {{- with $values.extraVolumeMounts }}{{ toYaml . | nindent 12 }}{{ end }}
      volumes:
        - name: config
          configMap:
            name: {{ include "frontier.part" . }}
        {{- with .volumes }}{{ toYaml . | nindent 8 }}{{ end }}
        {{- with $values.extraVolumes }}{{ toYaml . | nindent 8 }}{{ end }}
{{- end }}

{{- /* What both components have besides: an account, a budget, a Service for their metrics. */}}
{{- define "frontier.company" -}}
{{- $values := get .root.Values .part }}
{{- if $values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "frontier.serviceAccount" . }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels: {{- include "frontier.labels" . | nindent 4 }}
  {{- with $values.serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- $autoscaling := default dict $values.autoscaling }}
{{- $least := ternary (int $autoscaling.minReplicas) (int $values.replicaCount) (default false $autoscaling.enabled) }}
{{- if and $values.podDisruptionBudget.enabled (gt $least 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "frontier.part" . }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels: {{- include "frontier.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels: {{- include "frontier.selector" . | nindent 6 }}
{{- end }}
{{- $admin := get .root.Values.observability .part }}
{{- if $admin.enabled }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "frontier.part" . }}-metrics
  namespace: {{ .root.Release.Namespace | quote }}
  labels: {{- include "frontier.labels" . | nindent 4 }}
spec:
  clusterIP: None
  ports:
    - name: metrics
      port: {{ $admin.port }}
      targetPort: metrics
  selector: {{- include "frontier.selector" . | nindent 4 }}
{{- end }}
{{- end }}
