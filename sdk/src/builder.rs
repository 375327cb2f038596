//! What the builders of edges and services have in common.

/// The setters both builders have. `$builder` is the builder's name and `$new` the expression that makes one in examples.
macro_rules! common_setters {
    ($new:literal) => {
        /// The secret by which the gateway recognises this client (`auth.tokens` there; default: none). At most 4 KiB.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".token(\"s3cret\");")]
        /// # let _ = builder;
        /// ```
        pub fn token(mut self, token: impl Into<bytes::Bytes>) -> Self {
            self.options.token = crate::secret::Secret::from(token);
            self
        }

        /// Adds a label, by which people and services tell clients apart (default: none; at most 64, keys of 128 and values of 256 bytes).
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".label(\"site\", \"berlin\");")]
        /// # let _ = builder;
        /// ```
        pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.options.labels.insert(key.into(), value.into());
            self
        }

        /// Adds several labels.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".labels([(\"site\", \"berlin\"), (\"rack\", \"7\")]);")]
        /// # let _ = builder;
        /// ```
        pub fn labels<K: Into<String>, V: Into<String>>(
            mut self,
            labels: impl IntoIterator<Item = (K, V)>,
        ) -> Self {
            let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into()));
            self.options.labels.extend(labels);
            self
        }

        /// Offers a method from the very first connection on, so that no call can come before it. More by `register` on what
        /// [`connect`](Self::connect) returns. A name that cannot be offered is an error there.
        ///
        /// ```
        /// # use frontier::Request;
        #[doc = concat!("let builder = frontier::", $new)]
        ///     .method("echo", |req: Request| async move { Ok(req.into_body()) });
        /// # let _ = builder;
        /// ```
        pub fn method<F, Fut, R>(mut self, method: impl Into<String>, handler: F) -> Self
        where
            F: Fn(crate::Request) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = crate::Result<R>> + Send + 'static,
            R: Into<crate::Reply>,
        {
            self.options.methods.push((method.into(), crate::handler::Handler::new(handler)));
            self
        }

        /// How to encrypt, whom to trust, and who to be (default: TLS for `tls://` addresses with the roots of the system, none for others).
        /// With these options all connections use TLS.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".tls(frontier::TlsOptions::new().roots_file(\"ca.pem\"));")]
        /// # let _ = builder;
        /// ```
        pub fn tls(mut self, tls: crate::tls::TlsOptions) -> Self {
            self.options.tls = Some(tls);
            self
        }

        /// Send a sign of life after so much silence, give or take a quarter, and count the gateway as gone after two and a half times
        /// that (default: what the gateway asks for, which is also the longest possible).
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".heartbeat(std::time::Duration::from_secs(5));")]
        /// # let _ = builder;
        /// ```
        pub const fn heartbeat(mut self, heartbeat: std::time::Duration) -> Self {
            self.options.heartbeat = Some(heartbeat);
            self
        }

        /// How long one attempt to connect may take, until the gateway has welcomed this client (default 15 s: a gateway may ask a service
        /// whether to admit an edge, and answers within 10 s). Of a name with several network addresses, the next one is tried when one has
        /// failed or not answered within 250 ms.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".connect_timeout(std::time::Duration::from_secs(3));")]
        /// # let _ = builder;
        /// ```
        pub const fn connect_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.connect_timeout = timeout;
            self
        }

        /// How long calls, messages and the opening of streams may take if they say nothing else (default 30 s).
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".call_timeout(std::time::Duration::from_secs(5));")]
        /// # let _ = builder;
        /// ```
        pub const fn call_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.call_timeout = timeout;
            self
        }

        /// How long calls and messages under way may take to finish when this client closes (default 5 s).
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".close_timeout(std::time::Duration::from_secs(1));")]
        /// # let _ = builder;
        /// ```
        pub const fn close_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.close_timeout = timeout;
            self
        }

        /// How long calls, messages and streams may go on over a connection whose gateway is about to stop, after another one has taken its
        /// place (default 5 minutes; the gateway may end it earlier).
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".drain_timeout(std::time::Duration::from_secs(60));")]
        /// # let _ = builder;
        /// ```
        pub const fn drain_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.options.drain_timeout = timeout;
            self
        }

        /// Handlers that run at the same time (default 256, at least 1). More calls wait.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".max_concurrent_handlers(16);")]
        /// # let _ = builder;
        /// ```
        pub const fn max_concurrent_handlers(mut self, handlers: usize) -> Self {
            self.options.max_concurrent_handlers = handlers;
            self
        }

        /// Calls and messages of the peer that may be unanswered, per connection and per stream (default 1,024). Calls wait for a handler
        /// up to this number; what comes beyond is answered `overloaded`. Worst case 64 KiB each, longer bodies see
        #[doc = "[`max_inbound_bytes`](Self::max_inbound_bytes)."]
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".max_in_flight(100);")]
        /// # let _ = builder;
        /// ```
        pub const fn max_in_flight(mut self, operations: usize) -> Self {
            self.options.max_in_flight = operations;
            self
        }

        /// Messages that wait to be received, per client and per stream (default 1,024). What comes beyond is answered `overloaded`.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".message_queue(100);")]
        /// # let _ = builder;
        /// ```
        pub const fn message_queue(mut self, messages: usize) -> Self {
            self.options.message_queue = messages;
            self
        }

        /// Streams of peers that wait to be accepted (default 128). What comes beyond is refused with `overloaded`.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".stream_backlog(16);")]
        /// # let _ = builder;
        /// ```
        pub const fn stream_backlog(mut self, streams: usize) -> Self {
            self.options.stream_backlog = streams;
            self
        }

        /// Operations of this client that wait for a connection or for the driver, per connection (default 1,024). Who comes beyond waits as
        /// well, outside of the queue, up to the operation's deadline.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".command_queue(64);")]
        /// # let _ = builder;
        /// ```
        pub const fn command_queue(mut self, operations: usize) -> Self {
            self.options.command_queue = operations;
            self
        }

        /// Longest body accepted, in bytes (default 16 MiB). How long a body may be that is sent, the gateway says.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".max_body(1 << 20);")]
        /// # let _ = builder;
        /// ```
        pub const fn max_body(mut self, bytes: usize) -> Self {
            self.options.max_body = bytes;
            self
        }

        /// Bytes of all bodies above 64 KiB that peers may have under way to this client or under its handlers (default 64 MiB). What does not
        /// fit is answered `overloaded`.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".max_inbound_bytes(256 << 20);")]
        /// # let _ = builder;
        /// ```
        pub const fn max_inbound_bytes(mut self, bytes: usize) -> Self {
            self.options.max_inbound_bytes = bytes;
            self
        }

        /// Streams open at the same time, those of this client and those of peers counted apart (default 1,024 each).
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".max_streams(64);")]
        /// # let _ = builder;
        /// ```
        pub const fn max_streams(mut self, streams: u32) -> Self {
            self.options.max_streams = streams;
            self
        }

        /// Bytes a peer may send on a stream before they are read: at first, and after growing by use (default 256 KiB and 4 MiB; at least
        /// 256 KiB). This is what a stream that is not read may hold.
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".stream_window(256 << 10, 1 << 20);")]
        /// # let _ = builder;
        /// ```
        pub fn stream_window(mut self, start: u32, most: u32) -> Self {
            self.options.stream_window = start.clamp(256 << 10, 1 << 30);
            self.options.max_stream_window = most.clamp(self.options.stream_window, 1 << 30);
            self
        }

        /// When to connect again after a loss (default: [`Reconnect::default()`](crate::Reconnect)).
        ///
        /// ```
        #[doc = concat!("let builder = frontier::", $new, ".reconnect(frontier::Reconnect::never());")]
        /// # let _ = builder;
        /// ```
        pub const fn reconnect(mut self, policy: crate::reconnect::Reconnect) -> Self {
            self.options.reconnect = policy;
            self
        }

        #[cfg(any(test, feature = "testing"))]
        pub(crate) fn dialer(mut self, dialer: crate::transport::Dialer) -> Self {
            self.options.dialer = Some(dialer);
            self
        }
    };
}

pub(crate) use common_setters;

/// The methods both handles have. `$type` is the handle's name.
macro_rules! common_methods {
    ($type:literal) => {
        /// Offers a method: `handler` answers its calls, from now on and across reconnects, until [`unregister`](Self::unregister). Replaces
        /// an earlier handler of the same method.
        ///
        /// Handlers run concurrently on the runtime the client was made on. A handler that keeps a clone of this handle keeps the client
        /// open until it is unregistered or the client [closed](Self::close).
        ///
        /// # Errors
        /// When the gateway refuses the method, or cannot be asked within the `call_timeout`; the method is not offered then.
        ///
        /// ```
        #[doc = concat!("# frontier::testing::scene::play(async |client: frontier::", $type, "| {")]
        /// use frontier::Request;
        ///
        /// client.register("echo", |req: Request| async move { Ok(req.into_body()) }).await?;
        /// # Ok::<_, frontier::Error>(())
        /// # });
        /// ```
        pub async fn register<F, Fut, R>(&self, method: impl Into<String>, handler: F) -> crate::Result<()>
        where
            F: Fn(crate::Request) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = crate::Result<R>> + Send + 'static,
            R: Into<crate::Reply>,
        {
            let method = method.into();
            crate::client::check_method(&method)?;
            self.client.register(&method, crate::handler::Handler::new(handler)).await
        }

        /// Offers a method no longer. Calls under way are still answered.
        ///
        /// # Errors
        /// When the gateway cannot be told within the `call_timeout`. It is told again at the next reconnect, and until then calls are answered
        /// `method_not_found` here.
        ///
        /// ```
        #[doc = concat!("# frontier::testing::scene::play(async |client: frontier::", $type, "| {")]
        /// client.unregister("echo").await
        /// # });
        /// ```
        pub async fn unregister(&self, method: impl AsRef<str>) -> crate::Result<()> {
            let method = method.as_ref();
            crate::client::check_method(method)?;
            self.client.unregister(method).await
        }

        /// The next message; `None` when the client is closed. Any number of tasks may receive, each message comes once.
        ///
        /// # Cancel safety
        /// Safe: no message is lost.
        ///
        /// ```
        #[doc = concat!("# frontier::testing::scene::play(async |client: frontier::", $type, "| {")]
        /// while let Some(msg) = client.receive().await {
        ///     println!("{}: {:?}", msg.topic(), msg.body());
        ///     msg.done().await?;
        ///     # break; // nobody closes the client here
        /// }
        /// # Ok::<_, frontier::Error>(())
        /// # });
        /// ```
        pub async fn receive(&self) -> Option<crate::Message> {
            self.client.shared.messages.next(|message| !message.is_cancelled()).await
        }

        /// Accepts the next stream a peer opens; `None` when the client is closed.
        ///
        /// # Cancel safety
        /// Safe: a stream is accepted only when it is returned.
        ///
        /// ```
        #[doc = concat!("# frontier::testing::scene::play(async |client: frontier::", $type, "| {")]
        /// while let Some(stream) = client.accept_stream().await {
        ///     println!("{} opened a stream", stream.peer());
        ///     # break; // nobody closes the client here
        /// }
        /// # });
        /// ```
        pub async fn accept_stream(&self) -> Option<crate::Stream> {
            self.next_stream().await.map(crate::IncomingStream::accept)
        }

        /// The next stream a peer wants to open, to be looked at before it is accepted or refused; `None` when the client is closed.
        ///
        /// # Cancel safety
        /// Safe: no stream is lost.
        ///
        /// ```
        #[doc = concat!("# frontier::testing::scene::play(async |client: frontier::", $type, "| {")]
        /// while let Some(incoming) = client.next_stream().await {
        ///     if incoming.name() == "files" {
        ///         let stream = incoming.accept();
        ///     } else {
        ///         incoming.refuse("no such thing here");
        ///     }
        ///     # break; // nobody closes the client here
        /// }
        /// # });
        /// ```
        pub async fn next_stream(&self) -> Option<crate::IncomingStream> {
            let offer = self.client.shared.offers.next(crate::stream::Offer::stands).await?;
            Some(crate::IncomingStream::new(offer, self.client.clone()))
        }

        /// The state of the connection now.
        ///
        /// ```
        #[doc = concat!("# frontier::testing::scene::play(async |client: frontier::", $type, "| {")]
        /// println!("{:?}", client.state());
        /// # });
        /// ```
        #[must_use]
        pub fn state(&self) -> crate::State {
            self.client.shared.state()
        }

        /// Follows the state of the connection. Does not keep the client open.
        ///
        /// ```
        #[doc = concat!("# frontier::testing::scene::play(async |client: frontier::", $type, "| {")]
        /// let mut watch = client.watch();
        /// # client.close().await;
        /// while let Some(state) = watch.changed().await {
        ///     println!("{state:?}");
        /// }
        /// # });
        /// ```
        #[must_use]
        pub fn watch(&self) -> crate::StateWatch {
            self.client.shared.watch()
        }

        /// Closes the client, whoever else still has a handle: nothing new is started, what is under way may finish within the `close_timeout`,
        /// then the gateway is told and the connection closed. Dropping the last handle does the same without waiting for it.
        ///
        /// ```
        #[doc = concat!("# frontier::testing::scene::play(async |client: frontier::", $type, "| {")]
        /// client.close().await;
        /// # });
        /// ```
        pub async fn close(&self) {
            self.client.close().await;
        }
    };
}

pub(crate) use common_methods;
