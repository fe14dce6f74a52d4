{{- define "keyauthority.name" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) }}
{{- $name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "keyauthority.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "keyauthority.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{ include "keyauthority.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "keyauthority.isPostgres" -}}
{{- if eq .Values.store.engine "postgresql" }}true{{ end }}
{{- end }}

{{- define "keyauthority.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* The files of the data folder that come from secrets: name of the file to its secret. */}}
{{- define "keyauthority.files" -}}
pepper: {{ toJson .Values.secrets.pepper }}
audit.key: {{ toJson .Values.secrets.auditKey }}
operator.key: {{ toJson .Values.secrets.operatorKey }}
{{- end }}

{{- define "keyauthority.args" -}}
- serve
- --data=/data/keyauthority
- --listen=0.0.0.0:50051
- --metrics=0.0.0.0:9090
- --workers={{ .Values.workers }}
- --log-format={{ .Values.logFormat }}
- --log-level={{ .Values.logLevel }}
{{- if .Values.http.enabled }}
- --http=0.0.0.0:8080
{{- end }}
{{- if include "keyauthority.isPostgres" . }}
- --store-file=/store/{{ .Values.store.postgresql.key }}
- --max-staleness={{ .Values.store.postgresql.maxStaleness }}
{{- end }}
{{- if .Values.mustExist }}
- --must-exist
{{- end }}
{{- with .Values.tls }}
{{- if .secretName }}
- --tls-cert=/tls/tls.crt
- --tls-key=/tls/tls.key
{{- end }}
{{- if .clientCaKey }}
- --tls-client-ca=/tls/{{ .clientCaKey }}
{{- end }}
{{- end }}
{{- if .Values.allowPlaintext }}
- --allow-plaintext
{{- end }}
{{- with .Values.tokenPrefix }}
- --token-prefix={{ . }}
{{- end }}
{{- end }}

{{- /* The check of health: over HTTP if the kubelet can connect, else by the command line. */}}
{{- define "keyauthority.health" -}}
{{- if .Values.tls.clientCaKey }}
exec:
  command: [keyauthority, health, --address=localhost:50051, --tls-ca=/probe/ca.crt, --tls-cert=/probe/tls.crt, --tls-key=/probe/tls.key]
{{- else if .Values.http.enabled }}
httpGet:
  path: /healthz
  port: http
  scheme: {{ if .Values.tls.secretName }}HTTPS{{ else }}HTTP{{ end }}
{{- else if .Values.tls.secretName }}
exec:
  command: [keyauthority, health, --address=localhost:50051, --tls-ca=/tls/ca.crt]
{{- else }}
grpc:
  port: 50051
{{- end }}
{{- end }}

{{- define "keyauthority.pod" -}}
metadata:
  labels:
    {{- include "keyauthority.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "keyauthority.name" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # 30 s for calls to end, 5 s for the store, 3 s for traces.
  terminationGracePeriodSeconds: 45
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ .Values.userId }}
    runAsGroup: {{ .Values.userId }}
    fsGroup: {{ .Values.userId }}
    # `Always` opens the files to the group again at each start.
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- $image := printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
  {{- $files := dict }}
  {{- range $file, $secret := include "keyauthority.files" . | fromYaml }}
  {{- if $secret.name }}{{ $_ := set $files $file $secret }}{{ end }}
  {{- end }}
  {{- if $files }}
  initContainers:
    # The server accepts no links as key files, and secrets are mounted as links.
    - name: keys
      image: {{ $image }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [sh, -ec]
      args:
        # A rotation in the pod adds a version to the file on the volume, which may have its only copy.
        - |
          install -d -m 0700 /data/keyauthority
          for secret in /keys/*; do
            file=/data/keyauthority/$(basename "$secret")
            case "$file" in */pepper | */audit.key)
              if test -f "$file" && grep -qvxFf "$secret" "$file"; then
                echo "$file has versions that the secret lacks: add them to the secret" >&2
                exit 1
              fi
            esac
            install -m 0600 "$secret" "$file"
          done
      securityContext:
        {{- include "keyauthority.security" . | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: data
          mountPath: /data
        - name: keys
          mountPath: /keys
          readOnly: true
  {{- end }}
  containers:
    - name: keyauthority
      image: {{ $image }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- include "keyauthority.args" . | nindent 8 }}
      {{- if or .Values.callers .Values.extraEnv }}
      env:
        {{- with .Values.callers }}
        - name: KEYAUTHORITY_CALLERS
          value: {{ toJson . | quote }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      ports:
        - name: grpc
          containerPort: 50051
        {{- if .Values.http.enabled }}
        - name: http
          containerPort: 8080
        {{- end }}
        - name: metrics
          containerPort: 9090
      # An hour: a start waits for the database.
      startupProbe:
        tcpSocket:
          port: metrics
        periodSeconds: 2
        failureThreshold: 1800
      # Not the health: a restart does not repair a database.
      livenessProbe:
        tcpSocket:
          port: metrics
        periodSeconds: 20
        timeoutSeconds: 5
      readinessProbe:
        {{- include "keyauthority.health" . | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 5
      securityContext:
        {{- include "keyauthority.security" . | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: data
          mountPath: /data
        - name: tmp
          mountPath: /tmp
        {{- if .Values.tls.secretName }}
        - name: tls
          mountPath: /tls
          readOnly: true
        {{- end }}
        {{- if .Values.tls.clientCaKey }}
        - name: probe
          mountPath: /probe
          readOnly: true
        {{- end }}
        {{- if include "keyauthority.isPostgres" . }}
        - name: store
          mountPath: /store
          readOnly: true
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- if include "keyauthority.isPostgres" . }}
    - name: data
      emptyDir:
        medium: Memory # key files only
        sizeLimit: 16Mi
    - name: store
      secret:
        secretName: {{ .Values.store.postgresql.secretName | quote }}
        defaultMode: 0440
    {{- else if .Values.store.sqlite.existingClaim }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ .Values.store.sqlite.existingClaim | quote }}
    {{- end }}
    {{- if $files }}
    - name: keys
      projected:
        defaultMode: 0440
        sources:
          {{- range $file, $secret := $files }}
          - secret:
              name: {{ $secret.name | quote }}
              items:
                - key: {{ $secret.key | quote }}
                  path: {{ $file | quote }}
          {{- end }}
    {{- end }}
    {{- with .Values.tls.secretName }}
    - name: tls
      secret:
        secretName: {{ . | quote }}
        defaultMode: 0440
    {{- end }}
    {{- if .Values.tls.clientCaKey }}
    - name: probe
      secret:
        secretName: {{ .Values.tls.probeSecretName | quote }}
        defaultMode: 0440
    {{- end }}
  {{- if include "keyauthority.isPostgres" . }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "keyauthority.selector" . | nindent 10 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
