//! The Redis that the operator runs when the spec names none: one instance with a volume, for small and test clusters.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec},
        core::v1::{
            Container, EnvVar, EnvVarSource, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec,
            PodTemplateSpec, Probe, SecretKeySelector, TCPSocketAction, VolumeMount,
            VolumeResourceRequirements,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{Part, Scene, names::Names, pod};

/// Where it listens.
pub(super) const PORT: i32 = 6379;

/// Key of the password in its secret.
pub(crate) const PASSWORD_KEY: &str = "password";

pub(super) fn stateful_set(scene: &Scene<'_>) -> Option<StatefulSet> {
    let atlas = &scene.cluster.spec.frontlas;
    if atlas.redis.is_some() {
        return None;
    }
    let managed = atlas.managed_redis.clone().unwrap_or_default();
    let name = scene.names.with("redis");
    let labels: BTreeMap<String, String> = [("app".to_owned(), scene.names.app(Part::Redis))].into();
    let password = EnvVar {
        name: "REDIS_PASSWORD".to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(password_of(&scene.names)),
            ..EnvVarSource::default()
        }),
    };
    // An evicted record would be an edge that nobody finds.
    let args = [
        "--requirepass",
        "$(REDIS_PASSWORD)",
        "--dir",
        "/data",
        "--appendonly",
        "yes",
        "--maxmemory-policy",
        "noeviction",
    ];
    let container = Container {
        name: "redis".to_owned(),
        image: Some(managed.image.unwrap_or_else(|| scene.images.redis.clone())),
        command: Some(vec!["redis-server".to_owned()]),
        args: Some(args.iter().map(|&word| word.to_owned()).collect()),
        env: Some(vec![password]),
        resources: managed.resources,
        volume_mounts: Some(vec![VolumeMount {
            name: "data".to_owned(),
            mount_path: "/data".to_owned(),
            ..VolumeMount::default()
        }]),
        readiness_probe: Some(Probe {
            tcp_socket: Some(TCPSocketAction { port: IntOrString::Int(PORT), host: None }),
            period_seconds: Some(2),
            ..Probe::default()
        }),
        security_context: Some(pod::container_security()),
        ..Container::default()
    };
    let size = Quantity(managed.storage.unwrap_or_else(|| "1Gi".to_owned()));
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some("data".to_owned()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: managed.storage_class_name,
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size)].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    };
    Some(StatefulSet {
        metadata: scene.meta(&name, Part::Redis),
        spec: StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(name),
            selector: LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(PodSpec {
                    containers: vec![container],
                    security_context: Some(pod::pod_security()),
                    ..PodSpec::default()
                }),
            },
            volume_claim_templates: Some(vec![claim]),
            // What is in it comes back from the gateways; nothing is to stay behind.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Delete".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            ..StatefulSetSpec::default()
        },
        status: None,
    })
}

/// Where its password is.
pub(super) fn password_of(names: &Names) -> SecretKeySelector {
    SecretKeySelector { name: names.with("redis"), key: PASSWORD_KEY.to_owned(), optional: None }
}
