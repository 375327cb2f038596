//! Streams between one edge and one service: bytes both ways, and on the same stream calls and messages.

pub(crate) mod shared;

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use frontier_wire::native::frame::{FrameHeader, FrameType, HEADER_LEN, MAX_BODY_FRAME};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::shared::{Facts, Shared};
use crate::{
    call::{Call, Publish},
    client::Client,
    error::{Error, Result},
    handler::Handler,
    headers::Headers,
    mailbox::Note,
    message::Message,
    reply::Reply,
    request::{Peer, Request},
};

/// Bytes of one Data frame: with its header what fits into one yamux frame.
const CHUNK: usize = MAX_BODY_FRAME as usize - HEADER_LEN;

/// A stream between this client and one peer.
///
/// - Bytes: [`AsyncRead`] and [`AsyncWrite`]. A slow reader slows its writer, and nobody else. Written bytes are sent as soon as
///   possible, there is nothing to flush.
/// - `shutdown` ends this direction and leaves the other open. A stream dropped without it is reset: the peer's reads and writes fail.
///   Dropped after it, the peer can read on to the end; what it still sends is thrown away, and if it still sends 30 s later it is reset.
///   To know that all has arrived, keep the stream until the peer has ended its direction.
/// - Calls and messages travel on the same stream by [`call`](Self::call), [`register`](Self::register), [`publish`](Self::publish) and
///   [`receive`](Self::receive), in order with the bytes before them: a peer that does not read the bytes does not hear of them.
///
/// A stream counts as a handle of its client, which stays connected as long as there is one.
///
/// ```
/// # frontier::testing::scene::play(async |edge: frontier::Edge| {
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let mut stream = edge.open_stream("files").await?;
/// stream.write_all(b"hello").await?;
/// stream.shutdown().await?;
/// let mut answer = Vec::new();
/// stream.read_to_end(&mut answer).await?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # });
/// ```
pub struct Stream {
    handle: Handle,
    client: Client,
}

/// A stream the peer wants to open. Dropped, it counts as refused.
///
/// ```
/// # frontier::testing::scene::play(async |svc: frontier::Service| {
/// while let Some(incoming) = svc.next_stream().await {
///     if incoming.meta().is_empty() {
///         incoming.refuse("say what you want");
///     } else {
///         let stream = incoming.accept();
///         # drop(stream);
///     }
///     # break; // nobody closes the service here
/// }
/// # Ok::<_, frontier::Error>(())
/// # });
/// ```
#[must_use = "a stream that is dropped counts as refused"]
pub struct IncomingStream {
    offer: Offer,
    client: Client,
}

/// The user's end of a stream; dropped, the stream ends.
#[derive(Debug)]
pub(crate) struct Handle(Arc<Shared>);

/// What comes of opening a stream.
pub(crate) type Opened = Handle;

/// A stream of the peer that nobody has accepted yet; dropped, it is refused.
#[derive(Debug)]
pub(crate) struct Offer {
    shared: Arc<Shared>,
    settled: bool,
}

// === impl Stream ===

impl Stream {
    pub(crate) const fn new(handle: Handle, client: Client) -> Self {
        Self { handle, client }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.0
    }

    /// The service name the stream was opened with, or what a service called it when it opened it.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |stream: frontier::Stream| {
    /// println!("{}", stream.name());
    /// # });
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared().facts.name
    }

    /// Who is at the other end. Of a stream that an edge opened to a service, the edge knows the service only by name: its ID is 0.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |stream: frontier::Stream| {
    /// println!("{}", stream.peer());
    /// # });
    /// ```
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.shared().facts.peer
    }

    /// What the opener said of the stream.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |stream: frontier::Stream| {
    /// println!("{:?}", stream.meta());
    /// # });
    /// ```
    #[must_use]
    pub fn meta(&self) -> &Bytes {
        &self.shared().facts.meta
    }

    /// The headers the stream was opened with.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |stream: frontier::Stream| {
    /// println!("{:?}", stream.headers().get("traceparent"));
    /// # });
    /// ```
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.shared().facts.headers
    }

    /// Calls a method that the other end has registered on this stream.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |stream: frontier::Stream| {
    /// let size = stream.call("size", "").await?;
    /// # Ok::<_, frontier::Error>(())
    /// # });
    /// ```
    pub fn call(&self, method: impl Into<String>, body: impl Into<Bytes>) -> Call {
        Call::on_stream(self.client.clone(), self.shared().clone(), method.into(), body.into())
    }

    /// Sends a message on this stream; resolves when the other end has dealt with it.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |stream: frontier::Stream| {
    /// stream.publish("progress", "50 %").await
    /// # });
    /// ```
    pub fn publish(&self, topic: impl Into<String>, body: impl Into<Bytes>) -> Publish {
        Publish::on_stream(self.client.clone(), self.shared().clone(), topic.into(), body.into())
    }

    /// Offers a method to the other end of this stream, replacing an earlier one of the same name.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |stream: frontier::Stream| {
    /// stream.register("size", |_req| async { Ok("42") });
    /// # });
    /// ```
    pub fn register<F, Fut, R>(&self, method: impl AsRef<str>, handler: F)
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
        R: Into<Reply>,
    {
        self.shared().handlers.insert(method.as_ref(), Handler::new(handler));
    }

    /// Offers a method no longer; false if it was not offered.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |stream: frontier::Stream| {
    /// stream.unregister("size");
    /// # });
    /// ```
    pub fn unregister(&self, method: impl AsRef<str>) -> bool {
        self.shared().handlers.remove(method.as_ref()).is_some()
    }

    /// The next message on this stream; `None` when the other end has ended its direction or the stream is over.
    ///
    /// # Cancel safety
    /// Safe: no message is lost.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |mut stream: frontier::Stream| {
    /// # tokio::io::AsyncWriteExt::shutdown(&mut stream).await?; // so does the other end then
    /// while let Some(msg) = stream.receive().await {
    ///     msg.done().await?;
    /// }
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # });
    /// ```
    pub async fn receive(&self) -> Option<Message> {
        self.shared().messages.next(|message| !message.is_cancelled()).await
    }

    /// Writes bytes without copying them. Waits for room as `write_all` does.
    ///
    /// # Errors
    /// When the stream was reset or shut down, or the connection is gone.
    ///
    /// # Cancel safety
    /// Not safe: a part may have been written.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |mut stream: frontier::Stream| {
    /// stream.write_bytes(vec![0; 1 << 20]).await
    /// # });
    /// ```
    pub async fn write_bytes(&mut self, bytes: impl Into<Bytes>) -> io::Result<()> {
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            let room = std::future::poll_fn(|cx| self.shared().poll_room(cx)).await?;
            let chunk = bytes.split_to(bytes.len().min(room).min(CHUNK));
            self.shared().write(Bytes::copy_from_slice(&data_header(chunk.len())))?;
            self.shared().write(chunk)?;
        }
        Ok(())
    }

    /// The next bytes as they came, without copying them; `None` at the end.
    ///
    /// # Errors
    /// When the stream was reset or the connection is gone.
    ///
    /// # Cancel safety
    /// Safe.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |mut stream: frontier::Stream| {
    /// # stream.write_bytes("comes back").await?;
    /// # tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
    /// while let Some(bytes) = stream.read_bytes().await? {
    ///     println!("{} bytes", bytes.len());
    /// }
    /// # Ok::<_, std::io::Error>(())
    /// # });
    /// ```
    pub async fn read_bytes(&mut self) -> io::Result<Option<Bytes>> {
        let bytes = std::future::poll_fn(|cx| self.shared().poll_bytes(cx, usize::MAX)).await?;
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// Waits until the stream has failed, and says why: the other end has reset it, the connection is gone, or this handle was dropped. A
    /// stream that ends in good order does not fail. The future is independent of the stream, so that it can be waited for beside work that
    /// neither reads nor writes.
    ///
    /// # Cancel safety
    /// Safe.
    ///
    /// ```
    /// # async fn next_chunk() -> Vec<u8> { Vec::new() }
    /// # frontier::testing::scene::play(async |mut stream: frontier::Stream| {
    /// let failed = stream.failed();
    /// tokio::select! {
    ///     chunk = next_chunk() => stream.write_bytes(chunk).await,
    ///     error = failed => Err(error.into()), // nobody is left to prepare it for
    /// }
    /// # });
    /// ```
    pub fn failed(&self) -> impl Future<Output = Error> + Send + use<> {
        let shared = self.shared().clone();
        async move { shared.failed().await }
    }

    /// Ends both directions at once: the other end's reads and writes fail. The same happens when a stream is dropped that was not shut down.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |stream: frontier::Stream| {
    /// stream.reset();
    /// # });
    /// ```
    pub fn reset(self) {
        self.shared().mailbox.push(Note::StreamReset(self.shared().id));
        self.shared().fail(Error::session_closed("the stream was reset"));
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("name", &self.name())
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // As many pieces as fit: a small one must not cost a call of its own.
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            match self.shared().poll_bytes(cx, buf.remaining()) {
                Poll::Ready(Ok(bytes)) if bytes.is_empty() => break,
                Poll::Ready(Ok(bytes)) => buf.put_slice(&bytes),
                Poll::Ready(Err(error)) if buf.filled().len() == before => return Poll::Ready(Err(error)),
                Poll::Pending if buf.filled().len() == before => return Poll::Pending,
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(self.shared().poll_room(cx))?;
        let len = buf.len().min(room).min(CHUNK);
        let Some(piece) = buf.get(..len).filter(|piece| !piece.is_empty()) else { return Poll::Ready(Ok(0)) };
        let mut frame = Vec::with_capacity(HEADER_LEN + len);
        frame.extend_from_slice(&data_header(len));
        frame.extend_from_slice(piece);
        self.shared().write(frame.into())?;
        Poll::Ready(Ok(len))
    }

    /// Ready at once: bytes are sent as soon as possible without being asked for.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends this direction after what was written. The peer reads up to the end and may go on writing.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared().end().map(|_| ()).map_err(Into::into))
    }
}

fn data_header(len: usize) -> [u8; HEADER_LEN] {
    let header = FrameHeader::new(FrameType::Data, 0);
    // At most `CHUNK` bytes, which always fit.
    header.with_lens(0, len).unwrap_or(header).encode()
}

// === impl IncomingStream ===

impl IncomingStream {
    pub(crate) const fn new(offer: Offer, client: Client) -> Self {
        Self { offer, client }
    }

    fn facts(&self) -> &Facts {
        &self.offer.shared.facts
    }

    /// The service name it was opened with, or what a service called it.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |incoming: frontier::IncomingStream| {
    /// println!("{}", incoming.name());
    /// # });
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.facts().name
    }

    /// Who wants to open it.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |incoming: frontier::IncomingStream| {
    /// println!("{}", incoming.peer());
    /// # });
    /// ```
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.facts().peer
    }

    /// What the opener says of it.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |incoming: frontier::IncomingStream| {
    /// println!("{:?}", incoming.meta());
    /// # });
    /// ```
    #[must_use]
    pub fn meta(&self) -> &Bytes {
        &self.facts().meta
    }

    /// Its headers.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |incoming: frontier::IncomingStream| {
    /// println!("{:?}", incoming.headers().get("traceparent"));
    /// # });
    /// ```
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.facts().headers
    }

    /// Opens it. Should its opener have given up meanwhile, the stream's reads and writes fail.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |incoming: frontier::IncomingStream| {
    /// let stream = incoming.accept();
    /// # });
    /// ```
    #[must_use]
    pub fn accept(self) -> Stream {
        let Self { offer, client } = self;
        let shared = offer.settle();
        shared.mailbox.push(Note::StreamAccept(shared.id));
        Stream::new(Handle(shared), client)
    }

    /// Refuses it: opening fails at the other end with this error.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |incoming: frontier::IncomingStream| {
    /// incoming.refuse("not now");
    /// # });
    /// ```
    pub fn refuse(self, error: impl Into<Error>) {
        self.offer.refuse(error.into());
    }
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("IncomingStream");
        debug.field("name", &self.name()).field("peer", &self.peer()).finish_non_exhaustive()
    }
}

// === impl Handle ===

impl Handle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.release();
    }
}

// === impl Offer ===

impl Offer {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, settled: false }
    }

    /// Whether its opener still waits.
    pub(crate) fn stands(&self) -> bool {
        !self.shared.is_dead()
    }

    /// Tells the opener why not.
    pub(crate) fn refuse(self, error: Error) {
        let shared = self.settle();
        shared.mailbox.push(Note::StreamRefuse(shared.id, error));
    }

    /// The caller tells the opener.
    fn settle(mut self) -> Arc<Shared> {
        self.settled = true;
        self.shared.clone()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if !self.settled {
            let error = Error::application("nobody accepted the stream");
            self.shared.mailbox.push(Note::StreamRefuse(self.shared.id, error));
        }
    }
}
