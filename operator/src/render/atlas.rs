//! The registry's Deployment.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{EnvVar, EnvVarSource, HTTPGetAction, Probe, SecretKeySelector},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    Part, Scene, Style, config,
    gateway::{self, CONFIG_ANNOTATION},
    pod::{self, Description, Files, env},
    redis,
    services::ATLAS_ADMIN,
};
use crate::{api::PodOverrides, hash};

/// Seconds from the first notice until nobody sends anything to a pod that leaves.
const NOTICE: i64 = 5;

/// Pods with another password are other pods.
pub(super) const PASSWORD_ANNOTATION: &str = "frontier.singchia.io/redis-password";

pub(super) fn deployment(scene: &Scene<'_>) -> Result<Deployment, serde_json::Error> {
    let spec = &scene.cluster.spec.frontlas;
    let none = PodOverrides::default();
    let overrides = spec.pod.as_ref().unwrap_or(&none);
    let style = scene.atlas_style();
    let clients = spec.controlplane.port;
    let (liveness, readiness, hook) = match style {
        Style::Own => (
            pod::http("/healthz", ATLAS_ADMIN, 10, 20),
            pod::http("/readyz", ATLAS_ADMIN, 0, 2),
            pod::pre_stop(&["/usr/bin/frontlas", "drain-wait", &format!("{NOTICE}s")]),
        ),
        Style::Go => (
            gateway::tcp(clients, 10, 20),
            health(clients),
            pod::pre_stop(&["/bin/sh", "-c", &format!("sleep {NOTICE}")]),
        ),
    };
    let mut annotations = BTreeMap::new();
    let (mut args, mut files) = (None, Vec::new());
    if style == Style::Own {
        let file = serde_json::to_string(&config::atlas(scene))?;
        annotations.insert(CONFIG_ANNOTATION.to_owned(), hash::short(file.as_bytes()));
        args = Some(vec!["--config".to_owned(), format!("{}/frontlas.yaml", config::FOLDER)]);
        files.push(Files::of_map("config", scene.names.with("frontlas"), config::FOLDER));
        if scene.seen.redis_tls.is_some() {
            files.push(Files::of_secret("redis-tls", scene.names.with("redis-tls"), config::REDIS_TLS));
        }
    }
    let password = scene.seen.redis_password.as_ref();
    if let Some(password) = password.filter(|password| style == Style::Own || is_another(scene, password)) {
        annotations.insert(PASSWORD_ANNOTATION.to_owned(), password.clone());
    }
    let template = pod::template(Description {
        name: "frontlas",
        app: scene.names.app(Part::Atlas),
        image: scene.atlas_image(),
        shell_free: style == Style::Own,
        args,
        env: variables(scene),
        files,
        annotations,
        liveness,
        readiness,
        lifecycle: hook,
        grace: overrides.termination_grace_period_seconds.unwrap_or(30),
        node_affinity: spec.node_affinity.as_ref(),
        overrides,
    });
    let mut deployment =
        gateway::build(scene, Part::Atlas, Some(spec.replicas), spec.update_strategy.as_ref(), template);
    if let Some(password) = password {
        let noted = (PASSWORD_ANNOTATION.to_owned(), password.clone());
        deployment.metadata.annotations.get_or_insert_default().extend([noted]);
    }
    Ok(deployment)
}

/// Whether pods of the Go operator, which do not say what password they have, have another one than when they were taken over.
fn is_another(scene: &Scene<'_>, password: &str) -> bool {
    let running = scene.seen.atlas.as_ref();
    running.is_some_and(|running| {
        running.password_in_pods || running.password.as_ref().is_some_and(|noted| noted != password)
    })
}

/// In the order of their names, as the Go operator has them.
fn variables(scene: &Scene<'_>) -> Vec<EnvVar> {
    let spec = &scene.cluster.spec.frontlas;
    let mut all = vec![
        env("FRONTLAS_CONTROLPLANE_PORT", spec.controlplane.port.to_string()),
        env("FRONTLAS_FRONTIERPLANE_PORT", spec.controlplane.frontier_plane_port.to_string()),
    ];
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match &spec.redis {
        Some(redis) => {
            let password = match &redis.password_secret {
                Some(secret) => from_secret(secret.clone()),
                None => env("REDIS_PASSWORD", text(&redis.password)),
            };
            all.extend([
                env("MASTER_NAME", text(&redis.master_name)),
                env("REDIS_ADDRS", redis.addrs.join(",")),
                env("REDIS_DB", redis.db.to_string()),
                password,
                env("REDIS_TYPE", redis.redis_type.name()),
                env("REDIS_USER", text(&redis.user)),
            ]);
        }
        None => {
            let secret = redis::password_of(&scene.names);
            all.extend([
                env("REDIS_ADDRS", format!("{}:{}", scene.names.with("redis"), redis::PORT)),
                env("REDIS_DB", "0"),
                from_secret(secret),
                env("REDIS_TYPE", "standalone"),
            ]);
        }
    }
    all
}

fn from_secret(secret: SecretKeySelector) -> EnvVar {
    let value_from = EnvVarSource { secret_key_ref: Some(secret), ..EnvVarSource::default() };
    EnvVar { name: "REDIS_PASSWORD".to_owned(), value: None, value_from: Some(value_from) }
}

/// The probe of the Go operator.
fn health(port: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/cluster/v1/health".to_owned()),
            port: IntOrString::Int(port),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(5),
        ..Probe::default()
    }
}
