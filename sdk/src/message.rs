//! A message that came in.

use std::{
    fmt,
    future::{Ready, ready},
    sync::Arc,
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    headers::Headers,
    reply::Reply,
    request::Peer,
    responder::Responder,
};

/// A message that came in. Its sender waits until it is [`done`](Self::done), or told what is wrong with it by
/// [`error`](Self::error); dropping it tells the sender that it was dropped.
///
/// ```
/// # frontier::testing::scene::play(async |svc: frontier::Service| {
/// while let Some(msg) = svc.receive().await {
///     println!("{} from {}: {} bytes", msg.topic(), msg.from(), msg.body().len());
///     msg.done().await?;
///     # break; // nobody closes the service here
/// }
/// # Ok::<_, frontier::Error>(())
/// # });
/// ```
#[must_use = "a message that is dropped counts as refused"]
pub struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) body: Bytes,
    pub(crate) headers: Headers,
    pub(crate) from: Peer,
    pub(crate) cancel: CancellationToken,
    pub(crate) responder: Responder,
}

// === impl Message ===

impl Message {
    /// The topic it was published with. Empty if the sender gave none.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |msg: frontier::Message| {
    /// println!("{}", msg.topic());
    /// # });
    /// ```
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The body.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |msg: frontier::Message| {
    /// println!("{} bytes", msg.body().len());
    /// # });
    /// ```
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |msg: frontier::Message| {
    /// println!("{:?}", msg.headers().get("content-type"));
    /// # });
    /// ```
    #[must_use]
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Who sent it.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |msg: frontier::Message| {
    /// println!("{}", msg.from());
    /// # });
    /// ```
    #[must_use]
    pub const fn from(&self) -> Peer {
        self.from
    }

    /// Whether the sender waits no more: it gave up, its deadline passed, or the connection is gone. It may have sent the message
    /// again.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |msg: frontier::Message| {
    /// if msg.is_cancelled() { return }
    /// # });
    /// ```
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Tells the sender that the message was dealt with. The future is ready at once; nothing has to be awaited for it to count.
    ///
    /// # Errors
    /// When the session it came by has ended: the sender will never know.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |msg: frontier::Message| {
    /// msg.done().await
    /// # });
    /// ```
    pub fn done(self) -> Ready<Result<()>> {
        ready(self.responder.answer(Ok(Reply::default())))
    }

    /// Tells the sender what is wrong with the message: a text, or an [`Error`] with a code of its own. Ready at once, as
    /// [`done`](Self::done).
    ///
    /// # Errors
    /// When the session it came by has ended.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |msg: frontier::Message| {
    /// msg.error("not a number").await
    /// # });
    /// ```
    pub fn error(self, error: impl Into<Error>) -> Ready<Result<()>> {
        ready(self.responder.answer(Err(error.into())))
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("from", &self.from)
            .field("body_len", &self.body.len())
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}
