//! A namespace of a cluster, and an operator with the rights of `deploy/install.yaml`.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use frontier_operator::{
    api::FrontierCluster,
    app::{Election, Work},
    metrics::Counters,
    render::Images,
};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// A condition that has not come about by then will not.
const PATIENCE: Duration = Duration::from_secs(60);

const INSTALL: &str = include_str!("../../../deploy/install.yaml");

/// Who the operator is in `deploy/install.yaml`.
pub(crate) const OPERATOR: &str = "system:serviceaccount:frontier-system:frontiercluster-operator";

/// One namespace, which goes with the test.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

/// A running operator.
pub(crate) struct Operator {
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), kube::Error>>,
}

// === impl World ===

impl World {
    /// An empty namespace in a cluster where the operator is installed.
    pub(crate) async fn new() -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap());
        let client = Client::try_from(config(None).await).unwrap();
        install(&client).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let wanted = serde_json::from_value(json!({"metadata": {"generateName": "operator-"}})).unwrap();
        let namespace = namespaces.create(&PostParams::default(), &wanted).await.unwrap().name_any();
        Self { client, namespace }
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies a cluster, as a user does.
    pub(crate) async fn apply(&self, name: &str, spec: Value) -> Result<FrontierCluster, kube::Error> {
        let value = json!({
            "apiVersion": "frontier.singchia.io/v1alpha1", "kind": "FrontierCluster",
            "metadata": {"name": name}, "spec": spec,
        });
        self.api::<FrontierCluster>()
            .patch(name, &PatchParams::apply("user").force(), &Patch::Apply(&value))
            .await
    }

    /// Waits until `holds` is true of the cluster.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&FrontierCluster) -> bool,
    ) -> FrontierCluster {
        let api = self.api::<FrontierCluster>();
        eventually(what, async || {
            let cluster = api.get(name).await.unwrap();
            if holds(&cluster) { Ok(cluster) } else { Err(format!("{:?}", cluster.status)) }
        })
        .await
    }

    /// Waits until Degraded is true for this reason.
    pub(crate) async fn until_degraded(&self, name: &str, reason: &str) -> FrontierCluster {
        self.until(name, reason, |cluster| {
            condition(cluster, "Degraded") == ("True".to_owned(), reason.to_owned())
        })
        .await
    }

    /// Waits until nothing is wrong.
    pub(crate) async fn until_mended(&self, name: &str) -> FrontierCluster {
        self.until(name, "mended", |cluster| {
            condition(cluster, "Degraded").0 == "False"
                && cluster.status.as_ref().and_then(|s| s.observed_generation) == cluster.metadata.generation
        })
        .await
    }

    pub(crate) async fn service(&self, name: &str) -> Option<Service> {
        self.api::<Service>().get_opt(name).await.unwrap()
    }

    pub(crate) async fn put_secret(&self, name: &str, data: Value) {
        let value =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        self.api::<Secret>()
            .patch(name, &PatchParams::apply("user").force(), &Patch::Apply(&value))
            .await
            .unwrap();
    }

    /// Notes of events about a cluster, by reason.
    pub(crate) async fn events(&self, reason: &str) -> Vec<String> {
        use k8s_openapi::api::events::v1::Event;
        let events = self.api::<Event>().list(&ListParams::default()).await.unwrap();
        let of = events.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
        of.filter_map(|event| event.note).collect()
    }

    /// Everything in the namespace that belongs to an object, as kind and name.
    pub(crate) async fn owned_by(&self, uid: &str) -> Vec<String> {
        let mut found = Vec::new();
        for kind in frontier_operator::render::Kind::ALL {
            let resource = kind.resource();
            if resource.group == "monitoring.coreos.com" {
                continue;
            }
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            for object in api.list(&ListParams::default()).await.unwrap() {
                if object.owner_references().iter().any(|owner| owner.uid == uid) {
                    found.push(format!("{} {}", kind.name(), object.name_any()));
                }
            }
        }
        found.sort();
        found
    }

    /// Removes the namespace; what is in it goes after it.
    pub(crate) async fn end(self) {
        // Not by our types: there may be one that they cannot read.
        let resource = ApiResource::erase::<FrontierCluster>(&());
        let clusters: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        clusters.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::background()).await.unwrap();
    }
}

/// Status and reason of a condition.
pub(crate) fn condition(cluster: &FrontierCluster, type_: &str) -> (String, String) {
    let status = cluster.status.clone().unwrap_or_default();
    let found = status.conditions.into_iter().find(|condition| condition.type_ == type_);
    found.map(|condition| (condition.status, condition.reason)).unwrap_or_default()
}

/// Tries again and again until it succeeds, and fails the test with the last answer.
pub(crate) async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(state) if Instant::now() > deadline => panic!("{what} did not come about: {state}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

// === impl Operator ===

impl Operator {
    /// One that is alone.
    pub(crate) async fn start() -> Self {
        Self::start_as(OPERATOR, None).await
    }

    /// One of this service account, perhaps with others.
    pub(crate) async fn start_as(account: &str, election: Option<Election>) -> Self {
        let counters = Arc::new(Counters::default());
        let work = Work {
            config: config(Some(account)).await,
            images: images(),
            identity: "test".to_owned(),
            election,
            counters: Arc::clone(&counters),
        };
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the handle waits for it")]
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { work.run(stop).await }
        });
        Self { counters, stop, task }
    }

    /// Told to end, it does.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap().unwrap();
    }
}

/// Images that do not exist; nothing runs here.
fn images() -> Images {
    let image = |name: &str| format!("frontier.invalid/{name}:1");
    Images { frontier: image("frontier"), frontlas: image("frontlas"), redis: image("redis") }
}

/// The cluster that the harness gives, as this service account or as its administrator.
pub(crate) async fn config(account: Option<&str>) -> Config {
    let path = std::env::var("FRONTIER_E2E_KUBECONFIG").expect("FRONTIER_E2E_KUBECONFIG names a cluster");
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    if let Some(account) = account {
        config.auth_info.impersonate = Some(account.to_owned());
        let groups = ["system:serviceaccounts", "system:authenticated"];
        config.auth_info.impersonate_groups = Some(groups.map(str::to_owned).into());
    }
    config
}

/// Applies `deploy/install.yaml` but for the Deployment: the tests run the operator themselves.
async fn install(client: &Client) {
    for text in INSTALL.split("\n---\n") {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        let field = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        if field("/kind") == "Deployment" {
            continue;
        }
        let (group, version) = match field("/apiVersion").split_once('/') {
            Some((group, version)) => (group.to_owned(), version.to_owned()),
            None => (String::new(), field("/apiVersion")),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(&group, &version, &field("/kind")));
        let api: Api<DynamicObject> = match field("/metadata/namespace").as_str() {
            "" => Api::all_with(client.clone(), &resource),
            namespace => Api::namespaced_with(client.clone(), namespace, &resource),
        };
        let name = field("/metadata/name");
        api.patch(&name, &PatchParams::apply("install").force(), &Patch::Apply(&value)).await.unwrap();
    }
    // The definition is served a moment later.
    let clusters: Api<FrontierCluster> = Api::all(client.clone());
    eventually("the resource is served", async || {
        clusters.list(&ListParams::default()).await.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
}
