//! Objects of the Prometheus operator, where it is installed.

use serde_json::{Value, json};

use super::{Kind, Part, Scene, Wanted};
use crate::api::Monitoring;

/// Group of its resources.
pub(super) const GROUP: &str = "monitoring.coreos.com";

/// Their version.
pub(super) const VERSION: &str = "v1";

pub(super) fn all(scene: &Scene<'_>) -> Vec<Wanted> {
    let monitoring = scene.cluster.spec.monitoring.as_ref().filter(|monitoring| monitoring.enabled);
    let Some(monitoring) = monitoring.filter(|_| scene.seen.monitoring) else { return Vec::new() };
    let mut all: Vec<Wanted> =
        [Part::Gateway, Part::Atlas].into_iter().map(|part| monitor(scene, monitoring, part)).collect();
    all.push(rule(scene, monitoring));
    all
}

fn monitor(scene: &Scene<'_>, monitoring: &Monitoring, part: Part) -> Wanted {
    let app = scene.names.app(part);
    let spec = json!({
        "selector": {"matchLabels": {"metrics": app}},
        "endpoints": [{"port": "metrics", "path": "/metrics", "interval": monitoring.interval}],
    });
    wanted(scene, monitoring, Kind::ServiceMonitor, part, spec)
}

fn rule(scene: &Scene<'_>, monitoring: &Monitoring) -> Wanted {
    let (gateways, namespace) = (scene.names.app(Part::Gateway), scene.cluster.metadata.namespace.clone());
    let namespace = namespace.unwrap_or_default();
    let of = format!("namespace=\"{namespace}\",service=\"{gateways}-metrics\"");
    let alert = |name: &str, expr: String, wait: &str, severity: &str, summary: &str| {
        json!({
            "alert": name, "expr": expr, "for": wait,
            "labels": {"severity": severity}, "annotations": {"summary": summary},
        })
    };
    let rules = [
        alert(
            "FrontierWithoutRegistry",
            format!("frontier_atlas_up{{{of}}} == 0"),
            "2m",
            "warning",
            "A gateway has no link to the registry: its edges cannot be found.",
        ),
        alert(
            "FrontierMemoryFull",
            format!("frontier_memory_held_bytes{{{of}}} > 0.9 * frontier_memory_budget_bytes{{{of}}}"),
            "5m",
            "warning",
            "A gateway refuses work because its memory is full.",
        ),
        alert(
            "FrontierSessionPanics",
            format!("increase(frontier_session_panics_total{{{of}}}[10m]) > 0"),
            "0m",
            "critical",
            "A gateway ended sessions because of a fault of its own.",
        ),
    ];
    let spec = json!({"groups": [{"name": gateways, "rules": rules}]});
    wanted(scene, monitoring, Kind::PrometheusRule, Part::Gateway, spec)
}

fn wanted(scene: &Scene<'_>, monitoring: &Monitoring, kind: Kind, part: Part, spec: Value) -> Wanted {
    let name = scene.names.app(part);
    let mut meta = scene.meta(&name, part);
    meta.labels.get_or_insert_default().extend(monitoring.labels.clone().unwrap_or_default());
    let resource = kind.resource();
    let value = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, "spec": spec,
    });
    Wanted { kind, name, value }
}
