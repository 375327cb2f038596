//! Watches that fail each for itself: one that does not work is tried again in its own time and keeps none of the others waiting.
//!
//! Errors end here, in the log. Handed on to the controller, each would pause all that it listens to, for longer with every one: after a
//! restart of the API server, when all watches break at once, that came to minutes without a look at anything.

use std::{fmt::Debug, hash::Hash, time::Duration};

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Store},
        utils::{Backoff, ResetTimerBackoff},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use super::{Guarded, waited};

/// Between attempts of one watch: the first, doubled up to the last.
const FAILURE: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(5));

/// A watch that has worked for so long begins with the first wait again. An answer alone says little: a list that is refused begins with one.
const WORKS: Duration = Duration::from_secs(30);

/// Failures in a row.
struct Failures(u32);

/// The clusters, and a store of them.
pub(super) fn clusters(
    client: &Client,
) -> (Store<Guarded>, impl Stream<Item = Result<Guarded, watcher::Error>> + Send + use<>) {
    let (store, writer) = reflector::store();
    (store, events(client).reflect(writer).applied_objects())
}

/// Objects that were made, changed or removed.
pub(super) fn touched<K>(client: &Client) -> impl Stream<Item = Result<K, watcher::Error>> + Send + use<K>
where
    K: Resource<DynamicType: Default + Eq + Hash> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    events(client).touched_objects()
}

fn events<K>(client: &Client) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + use<K>
where
    K: Resource<DynamicType: Default> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let tell = |error: &watcher::Error| {
        tracing::warn!(kind = %K::kind(&K::DynamicType::default()), %error, "a watch does not work");
    };
    watcher(Api::<K>::all(client.clone()), watcher::Config::default())
        .backoff(ResetTimerBackoff::new(Failures(0), WORKS))
        .inspect_err(tell)
        .filter(|event| std::future::ready(event.is_ok()))
}

// === impl Failures ===

impl Iterator for Failures {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = self.0.saturating_add(1);
        Some(waited(FAILURE, self.0))
    }
}

impl Backoff for Failures {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, convert::Infallible, sync::Arc};

    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::json;
    use tokio::time::{Instant, sleep};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        controller::{Context, run},
        metrics::Counters,
        render::Images,
    };

    /// An API that is away until `back`, and what was listed since.
    fn api(back: Instant, listed: Arc<Mutex<BTreeSet<String>>>) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let listed = Arc::clone(&listed);
            async move {
                let path = request.uri().path().to_owned();
                let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
                let (status, answer) = if Instant::now() < back {
                    (
                        StatusCode::SERVICE_UNAVAILABLE,
                        json!({"kind": "Status", "apiVersion": "v1", "code": 503}),
                    )
                } else if watches {
                    std::future::pending().await
                } else {
                    listed.lock().insert(path);
                    let list = json!({
                        "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [],
                    });
                    (StatusCode::OK, list)
                };
                let body = Body::from(serde_json::to_vec(&answer).expect("JSON"));
                Ok::<_, Infallible>(Response::builder().status(status).body(body).expect("an answer"))
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn all_watches_work_soon_after_the_api_is_back() {
        let back = Instant::now() + Duration::from_secs(60);
        let listed = Arc::<Mutex<BTreeSet<String>>>::default();
        let client = api(back, Arc::clone(&listed));
        let images = Images { frontier: String::new(), frontlas: String::new(), redis: String::new() };
        let context = Context::new(client, images, Arc::<Counters>::default(), "test".to_owned());
        let stop = CancellationToken::new();
        let soon = async {
            let (_, last) = FAILURE;
            sleep(Duration::from_secs(60) + last).await;
            let listed = listed.lock().clone();
            assert_eq!(listed.len(), 8, "{listed:?}");
        };
        tokio::select! {
            () = run(Arc::new(context), stop) => panic!("it ends"),
            () = soon => {}
        }
    }

    #[test]
    fn waits_grow_up_to_the_last_one_and_begin_anew() {
        let mut failures = Failures(0);
        let (first, last) = FAILURE;
        assert!(failures.next().is_some_and(|wait| wait <= first));
        assert!((0..40).filter_map(|_| failures.next()).all(|wait| wait <= last));
        assert!(failures.next().is_some_and(|wait| wait >= last * 3 / 4));
        failures.reset();
        assert!(failures.next().is_some_and(|wait| wait <= first));
    }
}
