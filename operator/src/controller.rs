//! Makes clusters what their specs say, again and again, from whatever there is.
//!
//! ```text
//!  watches ─▶ queue ─▶ reconcile: see ─▶ render ─▶ apply what differs ─▶ observe ─▶ status, events
//!     ▲                                                                        │
//!     └── the cluster, what it owns, secrets it names     again: 5 s while something is on its way
//! ```
//! Nothing is remembered from one look to the next but how often it failed; what has not changed is not written.

mod adopt;
mod apply;
mod compare;
mod events;
mod observe;
mod see;
mod status;
mod trouble;
mod watches;

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DynamicObject, ObjectMeta},
    core::{ApiResource, DeserializeGuard, PartialObjectMeta},
    runtime::{
        controller::{Action, Config, Controller},
        events::{Recorder, Reporter},
        reflector::{ObjectRef, Store},
    },
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::{observe::Observed, trouble::Trouble};
use crate::{
    api::{self, FrontierCluster, FrontierClusterStatus},
    metrics::{Counters, Outcome},
    render::{self, Images, Kind, Part},
};

/// Who applies.
pub const MANAGER: &str = "frontier-operator";

/// Looks at once.
const LOOKS: u16 = 4;

/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// For one look; every request in it has a limit of its own.
const LOOK_TIME: Duration = Duration::from_secs(60);

/// While something is on its way: pods tell what is wrong with them without anything that is watched changing.
const PROGRESS: Duration = Duration::from_secs(5);

/// When all is well. What is missed by watches is found by then.
const SETTLED: Duration = Duration::from_secs(600);

/// After failures of the API: the first, doubled up to the last.
const FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

type Guarded = DeserializeGuard<FrontierCluster>;

/// What looks at clusters share.
pub struct Context {
    client: Client,
    images: Images,
    counters: Arc<Counters>,
    recorder: Recorder,
    /// Failures of the API in a row, by cluster.
    failures: Mutex<HashMap<ObjectRef<Guarded>, u32>>,
}

/// The API did not do what it was asked; another attempt may succeed.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// A request failed.
    #[error("{what}: {source}")]
    Request {
        /// What was asked for.
        what: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// It took too long.
    #[error("not done within {LOOK_TIME:?}")]
    Timeout,
    /// An object cannot be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

// === impl Context ===

impl Context {
    /// Works through `client`.
    #[must_use]
    pub fn new(client: Client, images: Images, counters: Arc<Counters>, identity: String) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(identity) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, images, counters, recorder, failures: Mutex::default() }
    }
}

/// Works until `stop`, then finishes what it is at. Dropped, it stops at once.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let client = &context.client;
    let (store, clusters) = watches::clusters(client);
    let named = store.clone();
    let results = Controller::for_stream(clusters, store)
        .with_config(Config::default().concurrency(LOOKS).debounce(DEBOUNCE))
        .owns_stream(watches::touched::<PartialObjectMeta<Deployment>>(client))
        .owns_stream(watches::touched::<PartialObjectMeta<StatefulSet>>(client))
        .owns_stream(watches::touched::<PartialObjectMeta<Service>>(client))
        .owns_stream(watches::touched::<PartialObjectMeta<ConfigMap>>(client))
        .owns_stream(watches::touched::<PartialObjectMeta<PodDisruptionBudget>>(client))
        .owns_stream(watches::touched::<PartialObjectMeta<HorizontalPodAutoscaler>>(client))
        .watches_stream(watches::touched::<PartialObjectMeta<Secret>>(client), move |secret| {
            concerned(&named, &secret)
        })
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, retry, Arc::clone(&context));
    let mut results = std::pin::pin!(results);
    while let Some(result) = results.next().await {
        match result {
            Ok((cluster, _)) => tracing::debug!(%cluster, "looked at"),
            // Reconcile says it itself, with more of the circumstances.
            Err(kube::runtime::controller::Error::ReconcilerFailed(..)) => {}
            Err(error) => tracing::warn!(%error, "a cluster could not be looked at"),
        }
    }
}

/// Clusters that own a secret, or name it.
fn concerned(store: &Store<Guarded>, secret: &PartialObjectMeta<Secret>) -> Vec<ObjectRef<Guarded>> {
    let (namespace, name) = (secret.namespace(), secret.name_any());
    let owners = secret.owner_references().iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>();
    let concerns = |cluster: &Guarded| {
        let owned = cluster.meta().uid.as_ref().is_some_and(|uid| owners.contains(uid));
        let named =
            cluster.0.as_ref().is_ok_and(|cluster| see::secrets_of(&cluster.spec).contains(&name.as_str()));
        cluster.namespace() == namespace && (owned || named)
    };
    let clusters = store.state();
    clusters
        .iter()
        .filter(|cluster| concerns(cluster))
        .map(|cluster| ObjectRef::from_obj(&**cluster))
        .collect()
}

async fn reconcile(cluster: Arc<Guarded>, context: Arc<Context>) -> Result<Action, LookError> {
    if cluster.meta().deletion_timestamp.is_some() {
        // All it has goes with it.
        context.failures.lock().remove(&ObjectRef::from_obj(&*cluster));
        return Ok(Action::await_change());
    }
    let begin = Instant::now();
    let result = match timeout(LOOK_TIME, context.look(&cluster)).await {
        Ok(result) => result,
        Err(_) => Err(LookError::Timeout),
    };
    let outcome = result.as_ref().map_or(Outcome::Failed, |(outcome, _)| *outcome);
    context.counters.look(outcome, begin.elapsed());
    let (_, action) = result?;
    context.failures.lock().remove(&ObjectRef::from_obj(&*cluster));
    Ok(action)
}

/// What comes after a failure.
fn retry(cluster: Arc<Guarded>, error: &LookError, context: Arc<Context>) -> Action {
    let reference = ObjectRef::from_obj(&*cluster);
    let failures = {
        let mut failures = context.failures.lock();
        let count = failures.entry(reference.clone()).or_insert(0);
        *count = count.saturating_add(1);
        *count
    };
    tracing::warn!(cluster = %reference, %error, failures, "a look at a cluster failed");
    Action::requeue(waited(FAILURE, failures))
}

/// How long to wait after so many failures in a row: the first wait, doubled up to the last.
fn waited((first, last): (Duration, Duration), failures: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    jittered(first.saturating_mul(doubled).min(last))
}

/// Between three quarters of it and all of it: those that failed together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0; 1];
    let part = getrandom::fill(&mut byte).map_or(0.0, |()| f64::from(byte[0]) / 255.0);
    wait.mul_f64(1.0 - part / 4.0)
}

// === impl Context ===

impl Context {
    async fn look(&self, cluster: &Guarded) -> Result<(Outcome, Action), LookError> {
        match &cluster.0 {
            Ok(cluster) => {
                let observed = self.carry_out(cluster).await?;
                self.tell(cluster, cluster.status.as_ref(), &observed).await?;
                Ok(next(&observed))
            }
            Err(invalid) => {
                // What it was is not known, but what it is called is.
                let observed = Observed::only(Trouble::invalid(invalid.error.clone()));
                let before = self.status_of(&invalid.metadata).await?;
                self.tell(cluster, before.as_ref(), &observed).await?;
                Ok(next(&observed))
            }
        }
    }

    /// What was said of an object that cannot be read as a whole.
    async fn status_of(&self, meta: &ObjectMeta) -> Result<Option<FrontierClusterStatus>, LookError> {
        let (name, namespace) =
            (meta.name.clone().unwrap_or_default(), meta.namespace.clone().unwrap_or_default());
        let resource = ApiResource::erase::<FrontierCluster>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &resource);
        let object = api.get_opt(&name).await.map_err(LookError::of(format!("FrontierCluster {name}")))?;
        Ok(object.and_then(|object| serde_json::from_value(object.data.get("status")?.clone()).ok()))
    }

    /// Makes the cluster what it shall be, as far as that is possible now.
    async fn carry_out(&self, cluster: &FrontierCluster) -> Result<Observed, LookError> {
        let problems = api::problems(&cluster.name_any(), &cluster.spec);
        if !problems.is_empty() {
            let mut observed = self.observe(cluster).await?;
            observed.troubles = vec![Trouble::invalid(problems.join("; "))];
            return Ok(observed);
        }
        let (seen, mut troubles) = self.see(cluster).await?;
        let wanted = render::all(cluster, &self.images, &seen)?;
        for object in &wanted {
            // A part whose secrets are broken stays as it is, all of it: half a change is worse than none.
            if troubles
                .iter()
                .any(|trouble| trouble.holds(part_of(&object.value)) && object.kind != Kind::Secret)
            {
                continue;
            }
            if let Err(trouble) = self.apply(cluster, object).await? {
                troubles.push(trouble);
            }
        }
        self.remove_others(cluster, &wanted, &mut troubles).await?;
        let mut observed = self.observe(cluster).await?;
        troubles.append(&mut observed.troubles);
        observed.troubles = troubles;
        Ok(observed)
    }
}

/// The part that an object belongs to, by its label.
fn part_of(value: &serde_json::Value) -> Option<Part> {
    let app = value.pointer("/metadata/labels/app").and_then(serde_json::Value::as_str)?;
    let ends = [("-frontier", Part::Gateway), ("-frontlas", Part::Atlas), ("-redis", Part::Redis)];
    ends.into_iter().find(|(end, _)| app.ends_with(end)).map(|(_, part)| part)
}

fn next(observed: &Observed) -> (Outcome, Action) {
    if let Some(wait) = observed.troubles.iter().map(|trouble| trouble.again()).min() {
        return (Outcome::Degraded, Action::requeue(wait));
    }
    if observed.is_settled() {
        (Outcome::Settled, Action::requeue(SETTLED))
    } else {
        (Outcome::Progressing, Action::requeue(PROGRESS))
    }
}

// === impl LookError ===

impl LookError {
    fn of(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Request { what, source: Box::new(source) }
    }
}
