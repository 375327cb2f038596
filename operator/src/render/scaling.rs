//! How many pods there are: budgets, and who chooses.

use k8s_openapi::{
    api::{
        autoscaling::v2::{
            CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
            MetricTarget, ResourceMetricSource,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{Part, Scene};

pub(super) fn budgets(scene: &Scene<'_>) -> Vec<PodDisruptionBudget> {
    let spec = &scene.cluster.spec;
    let parts = [
        (Part::Gateway, &spec.frontier.pod_disruption_budget),
        (Part::Atlas, &spec.frontlas.pod_disruption_budget),
    ];
    let wanted = parts.into_iter().filter_map(|(part, budget)| Some((part, budget.as_ref()?)));
    let budgets = wanted.map(|(part, budget)| {
        let app = scene.names.app(part);
        let labels = Some([("app".to_owned(), app.clone())].into());
        PodDisruptionBudget {
            metadata: scene.meta(&app, part),
            spec: Some(PodDisruptionBudgetSpec {
                min_available: budget.min_available.clone(),
                max_unavailable: budget.max_unavailable.clone(),
                selector: Some(LabelSelector { match_labels: labels, ..LabelSelector::default() }),
                ..PodDisruptionBudgetSpec::default()
            }),
            status: None,
        }
    });
    budgets.collect()
}

pub(super) fn autoscaler(scene: &Scene<'_>) -> Option<HorizontalPodAutoscaler> {
    let scaling = scene.cluster.spec.frontier.autoscaling.as_ref()?;
    let app = scene.names.app(Part::Gateway);
    let cpu = scaling.target_cpu.or_else(|| scaling.target_memory.is_none().then_some(80));
    let wanted = [("cpu", cpu), ("memory", scaling.target_memory)];
    let metrics = wanted.into_iter().filter_map(|(resource, percent)| {
        let target = MetricTarget {
            type_: "Utilization".to_owned(),
            average_utilization: Some(percent?),
            ..MetricTarget::default()
        };
        Some(MetricSpec {
            type_: "Resource".to_owned(),
            resource: Some(ResourceMetricSource { name: resource.to_owned(), target }),
            ..MetricSpec::default()
        })
    });
    Some(HorizontalPodAutoscaler {
        metadata: scene.meta(&app, Part::Gateway),
        spec: HorizontalPodAutoscalerSpec {
            min_replicas: Some(scaling.min_replicas),
            max_replicas: scaling.max_replicas,
            metrics: Some(metrics.collect()),
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: app,
            },
            ..HorizontalPodAutoscalerSpec::default()
        },
        status: None,
    })
}
