{{/* Values that render but cannot run, or would measure wrongly. Each message states what to change. */}}
{{- define "tpw-exporter.refusals" -}}
{{- $own := include "tpw-exporter.selectorLabels" . | fromYaml -}}
{{- range $name, $_ := .Values.podLabels -}}
{{- if hasKey $own $name -}}
{{- fail (printf "podLabels: %s is a label by which the DaemonSet finds its pods; it cannot be set." $name) -}}
{{- end -}}
{{- end -}}

{{- range .Values.extraArgs -}}
{{- if regexMatch "^--(config\\.file|state\\.dir|web\\.listen-address|web\\.config\\.file|web\\.telemetry-path)(=|$)" . -}}
{{- fail (printf "extraArgs: %s is set by the chart: probes, mounts and monitors depend on it." .) -}}
{{- end -}}
{{- end -}}

{{- $state := .Values.state -}}
{{- $user := .Values.podSecurityContext.runAsUser -}}
{{- $userOfContainer := ternary .Values.securityContext.runAsUser $user (hasKey .Values.securityContext "runAsUser") -}}
{{- if and (eq $state.type "claim") (not $state.claim) -}}
{{- fail "state.claim: the type `claim` needs the name of a PersistentVolumeClaim with the access mode ReadWriteMany." -}}
{{- end -}}
{{- if and $state.claim (ne $state.type "claim") -}}
{{- fail (printf "state.claim: it is not used with the type `%s`; set state.type to `claim`." $state.type) -}}
{{- end -}}
{{- if and $state.prepare (ne $state.type "emptyDir") (kindIs "invalid" $user) -}}
{{- fail "state.prepare: without podSecurityContext.runAsUser the owner of the directory is unknown; set state.prepare to false, or state.type to `emptyDir`." -}}
{{- end -}}
{{- if and $state.prepare (ne $state.type "emptyDir") (ne (toString $userOfContainer) (toString $user)) -}}
{{- fail "securityContext.runAsUser: state.prepare gives the directory to podSecurityContext.runAsUser; set the user there." -}}
{{- end -}}

{{- if and (default false .Values.podSecurityContext.runAsNonRoot) (eq (toString $userOfContainer) "0") -}}
{{- fail "podSecurityContext: runAsUser 0 contradicts runAsNonRoot: true; set runAsNonRoot to false." -}}
{{- end -}}
{{- $context := .Values.securityContext -}}
{{- $escalation := $context.allowPrivilegeEscalation -}}
{{- $added := dig "capabilities" "add" list $context -}}
{{- if and (eq (toString $escalation) "false") (or $context.privileged (has "SYS_ADMIN" $added) (has "CAP_SYS_ADMIN" $added)) -}}
{{- fail "securityContext: privileged and SYS_ADMIN contradict allowPrivilegeEscalation: false, which the API server refuses; set allowPrivilegeEscalation to true." -}}
{{- end -}}

{{- $surge := toString (dig "rollingUpdate" "maxSurge" 0 .Values.updateStrategy) -}}
{{- if and (ne .Values.updateStrategy.type "OnDelete") (not (has $surge (list "0" "0%" "<nil>"))) -}}
{{- if ne $state.type "emptyDir" -}}
{{- fail "updateStrategy: with maxSurge the new pod starts before the old one has ended, and both write the same books, which the second is refused; leave maxSurge at 0." -}}
{{- end -}}
{{- if .Values.hostNetwork -}}
{{- fail "updateStrategy: with hostNetwork two pods on a node cannot listen on the same port; leave maxSurge at 0." -}}
{{- end -}}
{{- if not (has (toString (dig "rollingUpdate" "maxUnavailable" 0 .Values.updateStrategy)) (list "0" "0%")) -}}
{{- fail "updateStrategy: the API server refuses maxSurge together with maxUnavailable; set maxUnavailable to 0." -}}
{{- end -}}
{{- end -}}

{{- if .Values.existingConfigMap -}}
{{- if or .Values.config .Values.web.allowedHosts -}}
{{- fail "existingConfigMap: config and web.allowedHosts belong into that ConfigMap; leave them empty." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.rbac.create (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "rbac.create: without an account of its own the right would be given to the account `default`, that is to every pod of the namespace; set serviceAccount.name, or rbac.create to false." -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled -}}
{{- fail "podMonitor and serviceMonitor: with both, every series is scraped twice and sums are double; enable one." -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.service.enabled) -}}
{{- fail "serviceMonitor: it selects the Service; set service.enabled, or use podMonitor." -}}
{{- end -}}
{{- $tariff := dig "tariff" dict .Values.config | default dict -}}
{{- if and (or $tariff.fixed $tariff.capacity $tariff.demand) (not .Values.config.site) -}}
{{- fail "config.tariff: fixed, capacity and demand are charges of a whole site, and every node would book all of them; add config.site (docs/tariffs.md, section Several nodes of one site)." -}}
{{- end -}}
{{- end -}}
