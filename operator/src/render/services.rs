//! Services. None publishes addresses of pods that are not ready: a pod that leaves would keep its traffic.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Part, Scene, redis};
use crate::api::ServiceType;

/// Port of probes and metrics of the gateways.
pub(super) const GATEWAY_ADMIN: i32 = 9091;

/// Port of probes and metrics of the registry.
pub(super) const ATLAS_ADMIN: i32 = 9092;

pub(super) fn all(scene: &Scene<'_>) -> Vec<Service> {
    let names = &scene.names;
    let spec = &scene.cluster.spec;
    let (services, edges, planes) =
        (&spec.frontier.servicebound, &spec.frontier.edgebound, &spec.frontlas.controlplane);
    let edge_node_port = match (edges.node_port, edges.service_type) {
        // As it always was: whoever knows the port knows the node's port.
        (None, ServiceType::NodePort) => Some(edges.port),
        (given, _) => given,
    };
    let mut all = vec![
        service(
            scene,
            &names.servicebound(),
            Part::Gateway,
            services.service_type,
            vec![port(&names.with("servicebound"), services.port, services.node_port, services.service_type)],
        ),
        service(
            scene,
            &names.edgebound(),
            Part::Gateway,
            edges.service_type,
            vec![port(&names.with("edgebound"), edges.port, edge_node_port, edges.service_type)],
        ),
        service(
            scene,
            &names.frontlas(),
            Part::Atlas,
            planes.service_type,
            vec![
                port(&names.with("controlplane"), planes.port, planes.node_port, planes.service_type),
                port(&names.with("frontierplane"), planes.frontier_plane_port, None, planes.service_type),
            ],
        ),
    ];
    if spec.frontlas.redis.is_none() {
        let ports = vec![port("redis", redis::PORT, None, ServiceType::ClusterIP)];
        all.push(headless(service(scene, &names.with("redis"), Part::Redis, ServiceType::ClusterIP, ports)));
    }
    if spec.monitoring.as_ref().is_some_and(|monitoring| monitoring.enabled) {
        for (name, part, number) in [
            ("frontier-metrics", Part::Gateway, GATEWAY_ADMIN),
            ("frontlas-metrics", Part::Atlas, ATLAS_ADMIN),
        ] {
            let ports = vec![port("metrics", number, None, ServiceType::ClusterIP)];
            let mut service =
                headless(service(scene, &names.with(name), part, ServiceType::ClusterIP, ports));
            // By which its monitor tells it from the other Services of the part.
            service.metadata.labels.get_or_insert_default().insert("metrics".to_owned(), names.app(part));
            all.push(service);
        }
    }
    all
}

fn service(
    scene: &Scene<'_>,
    name: &str,
    part: Part,
    service_type: ServiceType,
    ports: Vec<ServicePort>,
) -> Service {
    let selector: BTreeMap<String, String> = [("app".to_owned(), scene.names.app(part))].into();
    Service {
        metadata: scene.meta(name, part),
        spec: Some(ServiceSpec {
            type_: Some(service_type.name().to_owned()),
            selector: Some(selector),
            ports: Some(ports),
            publish_not_ready_addresses: Some(false),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn headless(mut service: Service) -> Service {
    if let Some(spec) = &mut service.spec {
        spec.cluster_ip = Some("None".to_owned());
    }
    service
}

fn port(name: &str, number: i32, node_port: Option<i32>, service_type: ServiceType) -> ServicePort {
    let outside = service_type != ServiceType::ClusterIP;
    ServicePort {
        name: Some(name.to_owned()),
        // Part of its key: without it an apply would not find the port that is there.
        protocol: Some("TCP".to_owned()),
        port: number,
        target_port: Some(IntOrString::Int(number)),
        node_port: node_port.filter(|port| outside && *port != 0),
        ..ServicePort::default()
    }
}
