//! Serves gateways' links by gRPC.

use std::pin::Pin;
use std::sync::Arc;

use frontier_api::registry::registry_server::{Registry, RegistryServer};
use frontier_api::registry::{FromGateway, RenewRequest, RenewResponse, ToGateway};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{LinkError, Links};
use crate::store::{Store, StoreError};

/// Bytes of one message: a thousand entries take some 30 KiB, but a bucket is never cut in two.
const MESSAGE_MAX: usize = 16 << 20;

/// Messages that wait for a gateway to read: acknowledgements, of which four may be due, and what it is to send again.
const OUT: usize = 8;

/// The names that whoever sent a request may have: put into its extensions by what checked the certificate. Without it any is allowed.
#[derive(Clone)]
pub struct Names(pub Arc<dyn Fn(&str) -> bool + Send + Sync>);

/// The gRPC service.
pub struct Grpc<S> {
    links: Arc<Links<S>>,
    tasks: TaskTracker,
}

// === impl Grpc ===

impl<S: Store> Grpc<S> {
    /// Of these links; `tasks` holds one task for each of them.
    #[must_use]
    pub fn server(links: Arc<Links<S>>, tasks: TaskTracker) -> RegistryServer<Self> {
        RegistryServer::new(Self { links, tasks }).max_decoding_message_size(MESSAGE_MAX)
    }
}

type ToGateways = Pin<Box<dyn Stream<Item = Result<ToGateway, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Store> Registry for Grpc<S> {
    type AttachStream = ToGateways;

    async fn attach(
        &self,
        request: Request<Streaming<FromGateway>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let names = request.extensions().get::<Names>().cloned();
        let (out, messages) = mpsc::channel(OUT);
        let (ended, end) = oneshot::channel();
        let links = Arc::clone(&self.links);
        let inbound = request.into_inner();
        self.tasks.spawn(async move {
            let may_be_called = |name: &str| names.as_ref().is_none_or(|names| names.0(name));
            let gone = out.clone();
            let outcome = tokio::select! {
                outcome = links.attach(may_be_called, inbound, out) => outcome,
                // Nobody listens any more.
                () = gone.closed() => Err(LinkError::Broken),
            };
            drop(ended.send(outcome));
        });
        let messages =
            stream::unfold(messages, |mut messages| async { Some((messages.recv().await?, messages)) });
        let end = async { end.await.ok().and_then(Result::err).map(|why| Err(Status::from(why))) };
        let end = stream::once(end).filter_map(|end| async { end });
        Ok(Response::new(Box::pin(messages.map(Ok).chain(end))))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Ok(Response::new(self.links.renew(request.get_ref()).await?))
    }
}

impl From<LinkError> for Status {
    fn from(error: LinkError) -> Self {
        let code = match &error {
            LinkError::Invalid(_) => Code::InvalidArgument,
            LinkError::Denied(_) => Code::PermissionDenied,
            LinkError::Superseded => Code::AlreadyExists,
            LinkError::Forgotten => Code::NotFound,
            LinkError::Replaced => Code::Aborted,
            LinkError::TooMany | LinkError::Full | LinkError::Store(StoreError::Busy) => {
                Code::ResourceExhausted
            }
            LinkError::Draining | LinkError::Store(_) | LinkError::Broken => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}
