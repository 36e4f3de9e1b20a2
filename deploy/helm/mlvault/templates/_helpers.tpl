{{- define "mlvault.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 30 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 30 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 30 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "mlvault.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of an object: root, component, and perhaps deployment. */}}
{{- define "mlvault.labels" -}}
{{ include "mlvault.selector" .root }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .deployment }}
mlvault/deployment: {{ . }}
{{- end }}
{{- end }}

{{- define "mlvault.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* What no container of mlvault needs, it does not get. */}}
{{- define "mlvault.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "mlvault.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The pod of a command: root, name (of the job), settings, command (a list), and perhaps deployment, scratch, hasToken. */}}
{{- define "mlvault.pod" -}}
{{- $root := .root -}}
{{- $settings := .settings -}}
{{- $values := $root.Values -}}
{{- $key := get $values.keys $settings.key -}}
serviceAccountName: {{ include "mlvault.fullname" $root }}-{{ .name }}
automountServiceAccountToken: {{ .hasToken | default false }}
{{- with $values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with $values.affinity }}
affinity: {{ toJson . }}
{{- end }}
# After SIGTERM mlvault ends within 20 seconds.
terminationGracePeriodSeconds: 30
securityContext:
  {{- include "mlvault.podSecurity" $root | nindent 2 }}
containers:
  - name: mlvault
    image: {{ include "mlvault.image" $root | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args: {{ concat .command (list "--log-format" "json") | toJson }}
    env:
      - {name: MLVAULT_CONFIG, value: /etc/mlvault/mlvault.toml}
      - {name: MLVAULT_KEY_FILE, value: /run/secrets/mlvault/key}
      - {name: MLVAULT_CACHE_DIR, value: /cache}
      {{- if eq .name "drill" }}
      - {name: MLVAULT_DRILL_SCRATCH_DIR, value: /scratch}
      {{- end }}
      {{- if $settings.shards }}
      - {name: MLVAULT_PLAN, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}}
      {{- end }}
      {{- range concat $values.env $settings.env }}
      - {{ toJson . }}
      {{- end }}
    {{- with concat $values.envFrom $settings.envFrom }}
    envFrom: {{ toJson . }}
    {{- end }}
    {{- with .ports }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    resources: {{ toJson $settings.resources }}
    securityContext:
      {{- include "mlvault.containerSecurity" $root | nindent 6 }}
    volumeMounts:
      - {name: config, mountPath: /etc/mlvault, readOnly: true}
      - {name: key, mountPath: /run/secrets/mlvault, readOnly: true}
      - {name: cache, mountPath: /cache}
      - {name: tmp, mountPath: /tmp}
      {{- if eq .name "drill" }}
      - {name: scratch, mountPath: /scratch}
      {{- end }}
      {{- range $name, $_ := $settings.secretFiles }}
      - {name: {{ printf "secret-%s" $name }}, mountPath: {{ printf "/run/secrets/%s" $name }}, readOnly: true}
      {{- end }}
      {{- range $settings.volumeMounts }}
      - {{ toJson . }}
      {{- end }}
volumes:
  # A mode of 256 is 0400: only the owner, and the pod's group, may read.
  - {name: config, configMap: {name: {{ include "mlvault.fullname" $root }}}}
  - name: key
    secret: {secretName: {{ $key.secret | quote }}, defaultMode: 256, items: [{key: {{ $key.item | quote }}, path: key}]}
  {{- $cache := $settings.cache | default dict }}
  {{- if or $cache.existingClaim $cache.size }}
  - name: cache
    persistentVolumeClaim: {claimName: {{ $cache.existingClaim | default (include "mlvault.jobName" .) }}}
  {{- else }}
  - {name: cache, emptyDir: {}}
  {{- end }}
  - {name: tmp, emptyDir: {}}
  {{- if .scratch }}
  - {{ merge (dict "name" "scratch") .scratch | toJson }}
  {{- else if eq .name "drill" }}
  - {name: scratch, emptyDir: {}}
  {{- end }}
  {{- range $name, $file := $settings.secretFiles }}
  - {name: {{ printf "secret-%s" $name }}, secret: {secretName: {{ $file.secret | quote }}, defaultMode: 256}}
  {{- end }}
  {{- range $settings.volumes }}
  - {{ toJson . }}
  {{- end }}
{{- end }}

{{/* The name of a job: root, name, and perhaps deployment. The Jobs of a CronJob add 11 characters to its name. */}}
{{- define "mlvault.jobName" -}}
{{- $parts := list (include "mlvault.fullname" .root) .name -}}
{{- with .deployment }}{{- $parts = append $parts . -}}{{- end -}}
{{- $name := join "-" $parts -}}
{{- if gt (len $name) 52 }}{{ fail (printf "%s is longer than 52 characters: shorten fullnameOverride, or the name in `deployments` (its `name` is what mlvault calls it)" $name) }}{{ end -}}
{{ $name }}
{{- end }}

{{/* The CronJob of a command, and the claim of its cache: as mlvault.pod. */}}
{{- define "mlvault.cronJob" -}}
{{- $settings := .settings -}}
{{- $labels := dict "root" .root "component" .name "deployment" .deployment -}}
{{- if and $settings.cache.size (not $settings.cache.existingClaim) }}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "mlvault.jobName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "mlvault.labels" $labels | nindent 4 }}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: {{ $settings.cache.size }}}}
  {{- with $settings.cache.storageClassName }}
  storageClassName: {{ . }}
  {{- end }}
---
{{- end }}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ include "mlvault.jobName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "mlvault.labels" $labels | nindent 4 }}
spec:
  schedule: {{ $settings.schedule | quote }}
  timeZone: {{ .root.Values.timeZone | quote }}
  suspend: {{ .isSuspended | default false }}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: {{ $settings.startWithinSeconds | int }}
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 5
  jobTemplate:
    metadata:
      labels:
        {{- include "mlvault.labels" $labels | nindent 8 }}
    spec:
      {{- if $settings.shards }}
      # One pod for each shard, and one that writes the snapshot (docs/cli.md, Shards).
      completionMode: Indexed
      completions: {{ add1 (int $settings.shards) }}
      parallelism: {{ add1 (int $settings.shards) }}
      backoffLimitPerIndex: {{ $settings.retries | int }}
      maxFailedIndexes: 0
      {{- else }}
      backoffLimit: {{ $settings.retries | int }}
      {{- end }}
      activeDeadlineSeconds: {{ $settings.deadlineSeconds | int }}
      podReplacementPolicy: Failed
      podFailurePolicy:
        rules:
          # A node that is drained says nothing of the job.
          - action: Ignore
            onPodConditions: [{type: DisruptionTarget}]
          # Exit codes of docs/cli.md that will not pass: somebody has to look.
          - action: {{ gt (int $settings.shards) 0 | ternary "FailIndex" "FailJob" }}
            onExitCodes: {containerName: mlvault, operator: In, values: {{ gt (int $settings.shards) 0 | ternary "[2, 3, 4, 10, 11, 12]" "[2, 3, 4, 10, 12]" }}}
      template:
        metadata:
          labels:
            {{- include "mlvault.labels" $labels | nindent 12 }}
            {{- with .root.Values.podLabels }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with .root.Values.podAnnotations }}
          annotations:
            {{- toYaml . | nindent 12 }}
          {{- end }}
        spec:
          restartPolicy: Never
          {{- include "mlvault.pod" . | nindent 10 }}
{{- end }}

{{/* Whether a job is enabled anywhere: root and name. */}}
{{- define "mlvault.hasJob" -}}
{{- $name := .name -}}
{{- $isThere := (get .root.Values.jobs $name).enabled -}}
{{- range $_, $own := .root.Values.deployments -}}
{{- if dig $name "enabled" false ($own | default dict) -}}{{- $isThere = true -}}{{- end -}}
{{- end -}}
{{- if $isThere }}true{{ end -}}
{{- end }}

{{- define "mlvault.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "mlvault.fullname" .root }}-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "mlvault.labels" (dict "root" .root "component" .name) | nindent 4 }}
  {{- with .settings.serviceAccountAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
