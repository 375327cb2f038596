//! What is wrong with a cluster's spec. The API server checks the same by the schema; objects stored before it did are checked here.

use super::cluster::{Autoscaling, Budget, Config, FrontierClusterSpec, RedisType, Tls};

/// Keys that the operator sets itself.
const GATEWAY_KEYS: &[&str] = &[
    "daemon.frontier_id",
    "edgebound.listen.addr",
    "edgebound.listen.advertised_addr",
    "edgebound.listen.tls",
    "frontlas",
    "observability",
    "servicebound.listen.addr",
    "servicebound.listen.tls",
];

/// Keys that the operator sets itself.
const ATLAS_KEYS: &[&str] =
    &["control_plane.listen.addr", "frontier_plane.listen.addr", "observability", "redis"];

/// Everything wrong with the object, each with the path of the field; none = it can be carried out.
#[must_use]
pub fn problems(name: &str, spec: &FrontierClusterSpec) -> Vec<String> {
    let mut found = Vec::new();
    let mut need = |holds: bool, problem: &str| {
        if !holds {
            found.push(problem.to_owned());
        }
    };
    let (gateway, atlas) = (&spec.frontier, &spec.frontlas);
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_lowercase());
    let rest =
        chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') && !name.ends_with('-');
    need(
        first && rest && name.len() <= 46,
        "metadata.name: must begin with a letter, consist of a-z, 0-9 and -, and have at most 46 characters",
    );
    let replicas = |n: i32| n >= 1;
    need(replicas(gateway.replicas), "frontier.replicas: must be at least 1");
    need(replicas(atlas.replicas), "frontlas.replicas: must be at least 1");
    let (services, edges) = (gateway.servicebound.port, gateway.edgebound.port);
    let (clients, gateways) = (atlas.controlplane.port, atlas.controlplane.frontier_plane_port);
    for (path, port) in [
        ("frontier.servicebound.port", services),
        ("frontier.edgebound.port", edges),
        ("frontlas.controlplane.port", clients),
        ("frontlas.controlplane.frontierPlanePort", gateways),
    ] {
        need((1..=65535).contains(&port), &format!("{path}: must be from 1 to 65535"));
    }
    need(services != edges, "frontier.servicebound.port and frontier.edgebound.port must differ");
    need(services != 9091 && edges != 9091, "frontier: 9091 is the port of probes and metrics");
    need(clients != gateways, "frontlas.controlplane: port and frontierPlanePort must differ");
    need(
        clients != 9092 && gateways != 9092,
        "frontlas.controlplane: 9092 is the port of probes and metrics",
    );
    for (path, tls) in [
        ("frontier.servicebound.tls", gateway.servicebound.tls.as_ref()),
        ("frontier.edgebound.tls", gateway.edgebound.tls.as_ref()),
    ] {
        let Some(tls) = tls.filter(|tls| tls.enabled) else { continue };
        let Tls { mtls, certificate_key_secret_ref: pair, ca_certificate_secret_ref: ca, .. } = tls;
        need(pair.is_some(), &format!("{path}.certificateKeySecretRef: is needed with enabled"));
        need(!mtls || ca.is_some(), &format!("{path}.caCertificateSecretRef: is needed with mtls"));
    }
    let given = |service: &Option<String>, default: &str| {
        let service = service.clone().filter(|service| !service.is_empty());
        service.unwrap_or_else(|| format!("{name}-{default}"))
    };
    let mut names = [
        given(&gateway.servicebound.service, "servicebound-svc"),
        given(&gateway.edgebound.service_name, "edgebound-svc"),
        given(&atlas.controlplane.service, "frontlas-svc"),
        format!("{name}-redis"),
        format!("{name}-frontier-metrics"),
    ];
    names.sort();
    need(
        names.windows(2).all(|two| two.first() != two.last()),
        "the Services of services, edges and the registry need names of their own, other than NAME-redis and NAME-frontier-metrics",
    );
    if let Some(redis) = &atlas.redis {
        need(!redis.addrs.is_empty(), "frontlas.redis.addrs: none is given");
        let master = redis.master_name.as_ref().is_some_and(|name| !name.is_empty());
        need(
            redis.redis_type != RedisType::Sentinel || master,
            "frontlas.redis.masterName: is needed with redisType sentinel",
        );
        need(
            redis.redis_type != RedisType::Cluster || redis.db == 0,
            "frontlas.redis.db: must be 0 with redisType cluster",
        );
    }
    if let Some(Autoscaling { min_replicas, max_replicas, .. }) = &gateway.autoscaling {
        need(
            *min_replicas >= 1 && min_replicas <= max_replicas,
            "frontier.autoscaling: minReplicas must be at least 1 and not exceed maxReplicas",
        );
    }
    for (path, budget) in [
        ("frontier.podDisruptionBudget", &gateway.pod_disruption_budget),
        ("frontlas.podDisruptionBudget", &atlas.pod_disruption_budget),
    ] {
        if let Some(Budget { min_available, max_unavailable }) = budget {
            need(
                min_available.is_some() != max_unavailable.is_some(),
                &format!("{path}: give one of minAvailable and maxUnavailable"),
            );
        }
    }
    for (path, config, keys) in
        [("frontier.config", &gateway.config, GATEWAY_KEYS), ("frontlas.config", &atlas.config, ATLAS_KEYS)]
    {
        for key in config.iter().flat_map(|config| set_keys(config, keys)) {
            need(false, &format!("{path}.{key}: is set by the operator, see the other fields"));
        }
    }
    found
}

fn set_keys<'a>(config: &Config, keys: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let has = |key: &str| {
        let mut parts = key.split('.');
        let first = parts.next().and_then(|part| config.0.get(part));
        parts.try_fold(first?, |value, part| value.get(part)).map(|_| ())
    };
    let set: Vec<&str> = keys.iter().copied().filter(|key| has(key).is_some()).collect();
    set.into_iter()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn base() -> Value {
        json!({
            "frontier": {"servicebound": {}, "edgebound": {}},
            "frontlas": {"redis": {"addrs": ["redis:6379"], "redisType": "standalone"}},
        })
    }

    fn with(path: &str, value: Value) -> FrontierClusterSpec {
        let mut spec = base();
        let mut at = &mut spec;
        for part in path.split('.') {
            at = at.as_object_mut().unwrap().entry(part).or_insert_with(|| json!({}));
        }
        *at = value;
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_small_object_is_fine_and_has_defaults() {
        let spec: FrontierClusterSpec = serde_json::from_value(base()).unwrap();
        assert_eq!(problems("orders", &spec), <[String; 0]>::default());
        assert_eq!((spec.frontier.replicas, spec.frontlas.replicas), (1, 1));
        assert_eq!((spec.frontier.servicebound.port, spec.frontier.edgebound.port), (30011, 30012));
        let planes = &spec.frontlas.controlplane;
        assert_eq!((planes.port, planes.frontier_plane_port), (40011, 40012));
    }

    #[test]
    fn zero_and_nothing_mean_the_default_as_in_the_go_operator() {
        let spec: FrontierClusterSpec = serde_json::from_value(json!({
            "frontier": {"servicebound": {"port": 0, "serviceType": ""}, "edgebound": {"port": 0, "serviceType": ""}},
            "frontlas": {
                "controlplane": {"port": 0, "frontierPlanePort": 0, "serviceType": ""},
                "redis": {"addrs": ["redis:6379"], "redisType": "standalone"},
            },
        }))
        .unwrap();
        let defaults: FrontierClusterSpec = serde_json::from_value(base()).unwrap();
        assert_eq!(spec, defaults);
        assert_eq!(problems("orders", &spec), <[String; 0]>::default());
        assert!(serde_json::from_value::<FrontierClusterSpec>(with_type("Nodeport")).is_err());
    }

    fn with_type(service_type: &str) -> Value {
        let mut spec = base();
        spec["frontier"]["edgebound"]["serviceType"] = json!(service_type);
        spec
    }

    #[test]
    fn each_mistake_is_named_with_its_field() {
        let cases = [
            ("frontier.replicas", json!(0), "frontier.replicas: must be at least 1"),
            ("frontlas.replicas", json!(-1), "frontlas.replicas: must be at least 1"),
            ("frontier.edgebound.port", json!(30011), "must differ"),
            ("frontier.edgebound.port", json!(70000), "from 1 to 65535"),
            ("frontier.servicebound.port", json!(9091), "9091"),
            ("frontlas.controlplane.port", json!(40012), "must differ"),
            ("frontier.edgebound.serviceName", json!("orders-frontlas-svc"), "names of their own"),
            ("frontlas.controlplane.service", json!("orders-redis"), "names of their own"),
            ("frontlas.controlplane.port", json!(9092), "9092"),
            ("frontier.edgebound.tls", json!({"enabled": true}), "tls.certificateKeySecretRef"),
            (
                "frontier.servicebound.tls",
                json!({"enabled": true, "mtls": true, "certificateKeySecretRef": {"name": "a"}}),
                "tls.caCertificateSecretRef",
            ),
            ("frontlas.redis.redisType", json!("sentinel"), "masterName"),
            ("frontlas.redis", json!({"addrs": ["a:1"], "redisType": "cluster", "db": 2}), "redis.db"),
            ("frontlas.redis.addrs", json!([]), "redis.addrs"),
            ("frontier.autoscaling", json!({"minReplicas": 3, "maxReplicas": 2}), "autoscaling"),
            ("frontier.podDisruptionBudget", json!({}), "podDisruptionBudget"),
            (
                "frontier.config",
                json!({"edgebound": {"listen": {"tls": {}}}}),
                "edgebound.listen.tls: is set by",
            ),
            ("frontlas.config", json!({"redis": {}}), "frontlas.config.redis: is set by"),
        ];
        for (path, value, expected) in cases {
            let found = problems("orders", &with(path, value.clone()));
            assert!(found.len() == 1 && found[0].contains(expected), "{path} = {value}: {found:?}");
        }
    }

    #[test]
    fn names_must_do_for_services() {
        let spec: FrontierClusterSpec = serde_json::from_value(base()).unwrap();
        let fine = |name: &str| problems(name, &spec).is_empty();
        assert!(fine("a") && fine("a-1") && fine(&"a".repeat(46)));
        for name in ["", "1a", "a.b", "a-", "A", &"a".repeat(47)] {
            assert!(!fine(name), "{name:?}");
        }
    }
}
