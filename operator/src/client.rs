//! What every request to the API goes through: a time limit, a count of what is written, and the rule that only the holder of the lease writes.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request, Response};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::time::timeout;
use tower::{BoxError, Service, layer::layer_fn};

use crate::lease::Gate;

/// For the answer to a request; much less than what is left of a lease when writing stops, so that no write is on its way when another
/// operator begins.
const PATIENCE: Duration = Duration::from_secs(4);

/// The API may be reached or not: a connection that takes longer is not one.
const CONNECT: Duration = Duration::from_secs(4);

/// What was written, by verb.
#[derive(Debug, Default)]
pub struct Writes {
    created: AtomicU64,
    patched: AtomicU64,
    replaced: AtomicU64,
    deleted: AtomicU64,
}

/// Why a request was not sent, or not waited for.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Somebody else holds the lease, or may.
    #[error("this operator does not hold the lease any more")]
    NotLeader,
    /// No answer.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

#[derive(Clone)]
struct Watched<S> {
    inner: S,
    writes: Arc<Writes>,
    gate: Gate,
}

/// A client whose writes pass the gate and are counted.
///
/// # Errors
/// The configuration cannot be used.
pub fn connect(mut config: Config, gate: Gate, writes: Arc<Writes>) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(CONNECT);
    // A retry would outlive the lease; whoever asks asks again.
    config.default_retry = false;
    let layer = layer_fn(move |inner| Watched { inner, writes: Arc::clone(&writes), gate: gate.clone() });
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

// === impl Watched ===

impl<S, B> Service<Request<Body>> for Watched<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(count) = self.writes.of(request.method()) {
            if !self.gate.is_open() {
                return Box::pin(std::future::ready(Err(RequestError::NotLeader.into())));
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
        let answer = self.inner.call(request);
        Box::pin(async {
            timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(RequestError::Timeout(PATIENCE).into()))
        })
    }
}

// === impl Writes ===

impl Writes {
    /// Counts by verb.
    #[must_use]
    pub fn by_verb(&self) -> [(&'static str, u64); 4] {
        [
            ("create", self.created.load(Ordering::Relaxed)),
            ("patch", self.patched.load(Ordering::Relaxed)),
            ("update", self.replaced.load(Ordering::Relaxed)),
            ("delete", self.deleted.load(Ordering::Relaxed)),
        ]
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_verb().iter().map(|(_, count)| count).sum()
    }

    fn of(&self, method: &Method) -> Option<&AtomicU64> {
        match *method {
            Method::POST => Some(&self.created),
            Method::PATCH => Some(&self.patched),
            Method::PUT => Some(&self.replaced),
            Method::DELETE => Some(&self.deleted),
            _ => None,
        }
    }
}
