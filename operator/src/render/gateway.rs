//! The gateways' Deployment.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{EnvVar, Lifecycle, PodTemplateSpec, Probe, TCPSocketAction},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    Part, Running, Scene, Style,
    atlas::PASSWORD_ANNOTATION,
    config,
    pod::{self, Description, Files, env, env_of_field},
    services::GATEWAY_ADMIN,
};
use crate::{
    api::{Advertise, AdvertiseMode, PodOverrides, ServiceType, UpdateStrategy},
    hash,
};

/// Seconds from the first notice until nobody sends anything to a pod that leaves.
const NOTICE: i64 = 10;

/// Seconds between the end of the drain and the kill.
const SPARE: i64 = 5;

/// Pods with another file are other pods.
pub(super) const CONFIG_ANNOTATION: &str = "frontier.singchia.io/config";

pub(super) fn deployment(scene: &Scene<'_>) -> Result<Deployment, serde_json::Error> {
    let spec = &scene.cluster.spec.frontier;
    let replicas = match (&spec.autoscaling, &scene.seen.gateway) {
        (None, _) => Some(spec.replicas),
        // Who scales begins with as many.
        (Some(scaling), None) => Some(scaling.min_replicas),
        (Some(_), Some(_)) => None,
    };
    let template = template(scene)?;
    Ok(build(scene, Part::Gateway, replicas, spec.update_strategy.as_ref(), template))
}

/// A Deployment of either part.
pub(super) fn build(
    scene: &Scene<'_>,
    part: Part,
    replicas: Option<i32>,
    strategy: Option<&UpdateStrategy>,
    template: PodTemplateSpec,
) -> Deployment {
    let app = scene.names.app(part);
    let labels: BTreeMap<String, String> = [("app".to_owned(), app.clone())].into();
    let strategy = strategy.map(|strategy| DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: strategy.max_surge.clone(),
            max_unavailable: strategy.max_unavailable.clone(),
        }),
    });
    Deployment {
        metadata: scene.meta(&app, part),
        spec: DeploymentSpec {
            replicas,
            selector: LabelSelector { match_labels: Some(labels), ..LabelSelector::default() },
            strategy,
            template,
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

fn template(scene: &Scene<'_>) -> Result<PodTemplateSpec, serde_json::Error> {
    let spec = &scene.cluster.spec.frontier;
    let none = PodOverrides::default();
    let overrides = spec.pod.as_ref().unwrap_or(&none);
    let style = scene.gateway_style();
    let hook = match style {
        Style::Own => pod::pre_stop(&["/usr/bin/frontier", "drain-wait", &format!("{NOTICE}s")]),
        Style::Go => pod::pre_stop(&["/bin/sh", "-c", &format!("sleep {NOTICE}")]),
    };
    let (grace, drain) = times(scene, style, overrides, &hook);
    let (liveness, readiness) = match style {
        Style::Own => {
            (pod::http("/healthz", GATEWAY_ADMIN, 10, 20), pod::http("/readyz", GATEWAY_ADMIN, 0, 2))
        }
        Style::Go => (tcp(spec.edgebound.port, 10, 20), tcp(spec.servicebound.port, 5, 10)),
    };
    let mut annotations = BTreeMap::new();
    let (mut args, mut files) = (None, Vec::new());
    if style == Style::Own {
        let file = serde_json::to_string(&config::gateway(scene))?;
        annotations.insert(CONFIG_ANNOTATION.to_owned(), hash::short(file.as_bytes()));
        args = Some(vec!["--config".to_owned(), format!("{}/frontier.yaml", config::FOLDER)]);
        let names = &scene.names;
        files.push(Files::of_map("config", names.with("frontier"), config::FOLDER));
        files.push(Files::of_secret("identity", names.with("frontier-identity"), config::IDENTITY));
        for (bound, volume, tls) in [
            ("edgebound", "tls", &spec.edgebound.tls),
            ("servicebound", "servicebound-tls", &spec.servicebound.tls),
        ] {
            let Some(tls) = tls.as_ref().filter(|tls| tls.enabled) else { continue };
            let pair = names.with(&format!("{bound}-certkey-certificate"));
            files.push(Files::of_secret(&format!("{volume}-secret"), pair, config::pair_folder(bound)));
            if tls.mtls {
                let ca = names.with(&format!("{bound}-ca-certificate"));
                files.push(Files::of_secret(&format!("{volume}-ca"), ca, config::ca_folder(bound)));
            }
        }
    }
    Ok(pod::template(Description {
        name: "frontier",
        app: scene.names.app(Part::Gateway),
        image: scene.gateway_image(),
        shell_free: style == Style::Own,
        args,
        env: variables(scene, style, drain),
        files,
        annotations,
        liveness,
        readiness,
        lifecycle: hook,
        grace,
        node_affinity: spec.node_affinity.as_ref(),
        overrides,
    }))
}

/// Seconds to the kill, and of these the ones in which the gateway drains.
fn times(scene: &Scene<'_>, style: Style, overrides: &PodOverrides, hook: &Lifecycle) -> (i64, i64) {
    let notice = pod::seconds_of(overrides.lifecycle.as_ref().unwrap_or(hook));
    if style == Style::Go {
        let grace = overrides.termination_grace_period_seconds.unwrap_or(60);
        return (grace, (grace - NOTICE).max(0));
    }
    match (overrides.termination_grace_period_seconds, scene.cluster.spec.frontier.drain_seconds) {
        (None, Some(drain)) => (i64::from(drain) + notice + SPARE, i64::from(drain)),
        (grace, _) => {
            let grace = grace.unwrap_or(60);
            (grace, (grace - notice - SPARE).max(0))
        }
    }
}

/// In the order of their names, as the Go operator has them.
fn variables(scene: &Scene<'_>, style: Style, drain: i64) -> Vec<EnvVar> {
    let spec = &scene.cluster.spec;
    let registry = format!("{}:{}", scene.names.frontlas(), spec.frontlas.controlplane.frontier_plane_port);
    let mut all = vec![
        env("FRONTIER_DRAIN_SECONDS", drain.to_string()),
        env("FRONTIER_EDGEBOUND_PORT", spec.frontier.edgebound.port.to_string()),
    ];
    if style == Style::Own {
        all.push(env_of_field("FRONTIER_ID", "metadata.name"));
    }
    all.push(env("FRONTIER_SERVICEBOUND_PORT", spec.frontier.servicebound.port.to_string()));
    all.push(env("FRONTLAS_ADDR", registry));
    all.push(env_of_field("NODE_NAME", "spec.nodeName"));
    if let Some(advertise) = &spec.frontier.edgebound.advertise {
        all.extend(advertised(scene, advertise));
    }
    all
}

fn advertised(scene: &Scene<'_>, advertise: &Advertise) -> Vec<EnvVar> {
    const NAME: &str = "FRONTIER_EDGEBOUND_ADVERTISED_ADDR";
    let edges = &scene.cluster.spec.frontier.edgebound;
    match advertise.mode {
        AdvertiseMode::Address => advertise.address.iter().map(|address| env(NAME, address)).collect(),
        AdvertiseMode::LoadBalancer => {
            let address = scene.seen.load_balancer.as_ref();
            address.map(|host| env(NAME, format!("{}:{}", bracketed(host), edges.port))).into_iter().collect()
        }
        AdvertiseMode::NodePort => {
            let wished = edges.node_port.filter(|port| *port != 0);
            let wished = wished.or_else(|| {
                (edges.node_port.is_none() && edges.service_type == ServiceType::NodePort)
                    .then_some(edges.port)
            });
            let Some(port) = wished.or(scene.seen.edge_node_port) else { return Vec::new() };
            // Variables are put in from those before them.
            vec![env_of_field("NODE_IP", "status.hostIP"), env(NAME, format!("$(NODE_IP):{port}"))]
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// The probes of the Go operator.
pub(super) fn tcp(port: i32, initial_delay: i32, period: i32) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction { port: IntOrString::Int(port), host: None }),
        initial_delay_seconds: Some(initial_delay),
        period_seconds: Some(period),
        timeout_seconds: Some(3),
        failure_threshold: Some(3),
        ..Probe::default()
    }
}

// === impl Running ===

impl Running {
    /// What a Deployment says of itself.
    #[must_use]
    pub fn of(deployment: &Deployment) -> Self {
        let spec = &deployment.spec;
        let pod = spec.template.spec.as_ref();
        let noted = |meta: Option<&ObjectMeta>| meta?.annotations.as_ref()?.get(PASSWORD_ANNOTATION).cloned();
        let container = pod.and_then(|pod| pod.containers.first());
        // Ours are told where their file is, those of the Go operator never were.
        let args = container.and_then(|container| container.args.as_ref());
        let own = container.is_none() || args.is_some_and(|args| !args.is_empty());
        Self {
            replicas: spec.replicas,
            style: if own { Style::Own } else { Style::Go },
            image: container.and_then(|container| container.image.clone()).unwrap_or_default(),
            password: noted(Some(&deployment.metadata)),
            password_in_pods: noted(spec.template.metadata.as_ref()).is_some(),
        }
    }
}
