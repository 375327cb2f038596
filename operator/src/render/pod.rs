//! What the pods of both parts have in common: the template, with what users say over it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, Capabilities, ConfigMapVolumeSource, Container, EnvVar, EnvVarSource, ExecAction,
        HTTPGetAction, Lifecycle, LifecycleHandler, NodeAffinity, ObjectFieldSelector, PodAffinityTerm,
        PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile,
        SecretVolumeSource, SecurityContext, Volume, VolumeMount, WeightedPodAffinityTerm,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use crate::api::PodOverrides;

/// User, group and owner of files: nobody in particular, as in the images.
const USER: i64 = 65532;

/// Owner and group may read.
const SECRET_MODE: i32 = 0o640;

/// What is different between the parts.
pub(super) struct Description<'a> {
    /// Name of the container and of the binary.
    pub(super) name: &'static str,
    pub(super) app: String,
    pub(super) image: &'a str,
    /// Whether there is no shell in the image, and a command that waits instead.
    pub(super) shell_free: bool,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Vec<EnvVar>,
    pub(super) files: Vec<Files>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) liveness: Probe,
    pub(super) readiness: Probe,
    pub(super) lifecycle: Lifecycle,
    pub(super) grace: i64,
    pub(super) node_affinity: Option<&'a NodeAffinity>,
    pub(super) overrides: &'a PodOverrides,
}

/// A volume and where it is mounted.
pub(super) struct Files {
    volume: Volume,
    folder: String,
    read_only: Option<bool>,
}

pub(super) fn template(description: Description<'_>) -> PodTemplateSpec {
    let Description {
        name, app, image, shell_free, args, env, files, mut annotations, grace, overrides, ..
    } = description;
    annotations.extend(overrides.annotations.clone().unwrap_or_default());
    let mut lifecycle = overrides.lifecycle.clone().unwrap_or(description.lifecycle);
    if shell_free {
        wait_without_shell(&mut lifecycle, name);
    }
    let mut labels = overrides.labels.clone().unwrap_or_default();
    labels.insert("app".to_owned(), app.clone());
    let mounts: Vec<VolumeMount> = files.iter().map(Files::mount).collect();
    let volumes: Vec<Volume> = files.into_iter().map(|files| files.volume).collect();
    let container = Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(
            overrides.image_pull_policy.clone().unwrap_or_else(|| "IfNotPresent".to_owned()),
        ),
        args,
        env: Some(env),
        resources: overrides.resources.clone(),
        volume_mounts: some(mounts),
        liveness_probe: Some(overrides.liveness_probe.clone().unwrap_or(description.liveness)),
        readiness_probe: Some(overrides.readiness_probe.clone().unwrap_or(description.readiness)),
        lifecycle: Some(lifecycle),
        security_context: Some(
            overrides.container_security_context.clone().unwrap_or_else(container_security),
        ),
        ..Container::default()
    };
    let affinity = overrides.affinity.clone().unwrap_or_else(|| Affinity {
        node_affinity: description.node_affinity.cloned(),
        pod_anti_affinity: Some(apart(&app)),
        ..Affinity::default()
    });
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            // Part of the template's hash, since the Go operator wrote it.
            name: Some(name.to_owned()),
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container],
            volumes: some(volumes),
            affinity: Some(affinity),
            node_selector: overrides.node_selector.clone(),
            tolerations: overrides.tolerations.clone(),
            topology_spread_constraints: overrides.topology_spread_constraints.clone(),
            priority_class_name: overrides.priority_class_name.clone(),
            service_account_name: overrides.service_account_name.clone(),
            image_pull_secrets: overrides.image_pull_secrets.clone(),
            security_context: Some(overrides.pod_security_context.clone().unwrap_or_else(pod_security)),
            termination_grace_period_seconds: Some(grace),
            ..PodSpec::default()
        }),
    }
}

/// A variable with a value.
pub(super) fn env(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.into()), value_from: None }
}

/// A variable with a field of the pod.
pub(super) fn env_of_field(name: &str, path: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector { field_path: path.to_owned(), api_version: None };
    let value_from = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(value_from) }
}

/// A probe of the admin port.
pub(super) fn http(path: &str, port: i32, initial_delay: i32, period: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port),
            ..HTTPGetAction::default()
        }),
        initial_delay_seconds: Some(initial_delay),
        period_seconds: Some(period),
        timeout_seconds: Some(3),
        failure_threshold: Some(3),
        ..Probe::default()
    }
}

/// Something to run before the end.
pub(super) fn pre_stop(command: &[&str]) -> Lifecycle {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    let exec = ExecAction { command: Some(command) };
    Lifecycle {
        pre_stop: Some(LifecycleHandler { exec: Some(exec), ..LifecycleHandler::default() }),
        ..Lifecycle::default()
    }
}

/// A `sleep N` that users have from the Go system would end at once in an image without a shell, and with it the time in which a pod leaves the
/// Services: our program waits as long.
fn wait_without_shell(lifecycle: &mut Lifecycle, program: &str) {
    let exec = lifecycle.pre_stop.as_mut().and_then(|hook| hook.exec.as_mut());
    let Some(command) = exec.and_then(|exec| exec.command.as_mut()) else { return };
    let words: Vec<&str> = command.iter().flat_map(|word| word.split_whitespace()).collect();
    let words = match words.as_slice() {
        ["sh" | "/bin/sh" | "bash" | "/bin/bash", "-c", rest @ ..] => rest,
        all => all,
    };
    if let ["sleep" | "/bin/sleep" | "/usr/bin/sleep", seconds] = words
        && seconds.trim_end_matches('s').parse::<u32>().is_ok()
    {
        let seconds = seconds.trim_end_matches('s');
        *command = vec![format!("/usr/bin/{program}"), "drain-wait".to_owned(), format!("{seconds}s")];
    }
}

/// Seconds that a hook takes, as far as it can be seen.
pub(super) fn seconds_of(lifecycle: &Lifecycle) -> i64 {
    let Some(hook) = &lifecycle.pre_stop else { return 0 };
    if let Some(sleep) = &hook.sleep {
        return sleep.seconds;
    }
    let words = hook.exec.iter().flat_map(|exec| exec.command.iter().flatten());
    let last = words.flat_map(|word| word.split_whitespace()).last();
    last.and_then(|word| word.trim_end_matches('s').parse().ok()).unwrap_or(0)
}

fn apart(app: &str) -> PodAntiAffinity {
    let requirement = LabelSelectorRequirement {
        key: "app".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![app.to_owned()]),
    };
    let selector = LabelSelector { match_expressions: Some(vec![requirement]), ..LabelSelector::default() };
    let term = PodAffinityTerm {
        label_selector: Some(selector),
        topology_key: "kubernetes.io/hostname".to_owned(),
        ..PodAffinityTerm::default()
    };
    let preferred = vec![WeightedPodAffinityTerm { weight: 100, pod_affinity_term: term }];
    PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(preferred),
        ..PodAntiAffinity::default()
    }
}

/// Security of pods where the spec says nothing.
pub(super) fn pod_security() -> PodSecurityContext {
    let profile = SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None };
    PodSecurityContext {
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        run_as_non_root: Some(true),
        seccomp_profile: Some(profile),
        ..PodSecurityContext::default()
    }
}

/// Security of containers where the spec says nothing.
pub(super) fn container_security() -> SecurityContext {
    let capabilities = Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None };
    SecurityContext {
        allow_privilege_escalation: Some(false),
        run_as_non_root: Some(true),
        capabilities: Some(capabilities),
        ..SecurityContext::default()
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

// === impl Files ===

impl Files {
    /// Files of a secret.
    pub(super) fn of_secret(volume: &str, secret: String, folder: impl Into<String>) -> Self {
        let source = SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(SECRET_MODE),
            ..SecretVolumeSource::default()
        };
        let volume = Volume { name: volume.to_owned(), secret: Some(source), ..Volume::default() };
        Self { volume, folder: folder.into(), read_only: Some(true) }
    }

    /// Files of a config map.
    pub(super) fn of_map(volume: &str, map: String, folder: &str) -> Self {
        let source = ConfigMapVolumeSource { name: map, ..ConfigMapVolumeSource::default() };
        let volume = Volume { name: volume.to_owned(), config_map: Some(source), ..Volume::default() };
        Self { volume, folder: folder.to_owned(), read_only: Some(true) }
    }

    fn mount(&self) -> VolumeMount {
        VolumeMount {
            name: self.volume.name.clone(),
            mount_path: self.folder.clone(),
            read_only: self.read_only,
            ..VolumeMount::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::SleepAction;

    use super::*;

    #[test]
    fn a_sleep_that_users_have_is_waited_for_without_a_shell() {
        let after = |command: &[&str]| {
            let mut lifecycle = pre_stop(command);
            wait_without_shell(&mut lifecycle, "frontier");
            lifecycle.pre_stop.unwrap().exec.unwrap().command.unwrap()
        };
        for sleep in [&["/bin/sh", "-c", "sleep 7"][..], &["sleep", "7"], &["sh", "-c", "sleep 7s"]] {
            assert_eq!(after(sleep), ["/usr/bin/frontier", "drain-wait", "7s"], "{sleep:?}");
        }
        for other in
            [&["/bin/sh", "-c", "sleep 7; echo"][..], &["/usr/bin/frontier", "drain-wait", "1s"], &["sleep"]]
        {
            assert_eq!(after(other), other);
        }
        let mut nothing = Lifecycle::default();
        wait_without_shell(&mut nothing, "frontier");
        assert_eq!(nothing, Lifecycle::default());
    }

    #[test]
    fn how_long_a_hook_takes_is_read_from_it() {
        assert_eq!(seconds_of(&pre_stop(&["frontier", "drain-wait", "10s"])), 10);
        assert_eq!(seconds_of(&pre_stop(&["/bin/sh", "-c", "sleep 7"])), 7);
        assert_eq!(seconds_of(&pre_stop(&["/bin/true"])), 0);
        assert_eq!(seconds_of(&Lifecycle::default()), 0);
        let sleep =
            LifecycleHandler { sleep: Some(SleepAction { seconds: 3 }), ..LifecycleHandler::default() };
        assert_eq!(seconds_of(&Lifecycle { pre_stop: Some(sleep), ..Lifecycle::default() }), 3);
    }
}
