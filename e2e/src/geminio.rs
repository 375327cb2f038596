//! A geminio client over a blocking socket: the wire crate's connection in the client's role. It drives any server of the protocol, ours
//! or another one.

use std::{
    collections::VecDeque,
    io::{ErrorKind, IoSlice, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use frontier_wire::geminio::{
    connection::{Connection, Event, Operation},
    data::{Content, Object, append_tail, decode},
    dialogue::DialogueId,
    limits::Limits,
};

/// Bytes handed to the socket at a time.
const BUDGET: usize = 64 << 10;
/// The longest wait for the socket before it is looked whether something is due.
const LOOK: Duration = Duration::from_millis(20);

/// See the module documentation.
pub struct Client {
    conn: Connection,
    socket: TcpStream,
    start: Instant,
    heard: VecDeque<Event<Bytes>>,
    id: u64,
    closed: bool,
}

/// What a call or message was answered with: its value, or the text of an error.
pub type Answer = Result<Vec<u8>, String>;

// === impl Client ===

impl Client {
    /// Connects; `Err` holds the server's text in it if that refuses.
    ///
    /// # Errors
    /// When there is no answer in time, or a refusal.
    pub fn connect(addr: SocketAddr, wanted: u64, meta: &[u8], within: Duration) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(addr)?;
        socket.set_nodelay(true)?;
        let conn = Connection::dial(Arc::new(Limits::default()), wanted, meta, 0);
        let start = Instant::now();
        let mut client = Self { conn, socket, start, heard: VecDeque::new(), id: 0, closed: false };
        match client.next(within)? {
            Event::Welcome { client: id } => client.id = id,
            Event::Rejected(data) => bail!("{}", data.error()),
            other => bail!("expected an answer to Conn, got {other:?}"),
        }
        Ok(client)
    }

    /// Connects as a service that takes these topics, and offers these methods.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn service(
        addr: SocketAddr,
        name: &str,
        methods: &[&str],
        topics: &[&str],
        within: Duration,
    ) -> anyhow::Result<Self> {
        let meta = serde_json::json!({ "service": name, "topics": topics }).to_string();
        let mut client = Self::connect(addr, 0, meta.as_bytes(), within)?;
        for method in methods {
            let packet = client.conn.register(method.as_bytes())?;
            client
                .take(within, |event| matches!(event, Event::RegisterDone { packet: of } if *of == packet))?;
        }
        Ok(client)
    }

    /// The ID that the server gave.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The protocol, for whatever has no method here.
    pub fn conn(&mut self) -> &mut Connection {
        &mut self.conn
    }

    /// Microseconds of the clock that [`Client::conn`] goes by.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    // --- operations

    /// Calls and waits for the answer; `edge` is for services.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn call(
        &mut self,
        edge: Option<u64>,
        method: &str,
        value: &[u8],
        within: Duration,
    ) -> anyhow::Result<Answer> {
        let custom = edge.map(|edge| append_tail(b"", edge)).unwrap_or_default();
        let object = Object {
            key: Content::Plain(method.as_bytes()),
            value: Content::Plain(value),
            custom: Content::Plain(&custom),
            ..Object::default()
        };
        let packet = self.conn.request(DialogueId::FIRST, &object)?;
        self.answer(packet, within)
    }

    /// Publishes and waits for the acknowledgement; `edge` is for services.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn publish(
        &mut self,
        edge: Option<u64>,
        topic: &str,
        value: &[u8],
        within: Duration,
    ) -> anyhow::Result<Answer> {
        let custom = edge.map(|edge| append_tail(b"", edge)).unwrap_or_default();
        let object = Object {
            topic,
            value: Content::Plain(value),
            custom: Content::Plain(&custom),
            ..Object::default()
        };
        let now = self.now();
        let sent = self.conn.publish(DialogueId::FIRST, 0, &object, now)?;
        self.answer(sent.packet, within)
    }

    /// The answer to a call or message that was sent.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn answer(&mut self, packet: u64, within: Duration) -> anyhow::Result<Answer> {
        let event = self.take(within, |event| match event {
            Event::Response { packet: of, .. } | Event::Acked { packet: of, .. } => *of == packet,
            _ => false,
        })?;
        match event {
            Event::Response { data, .. } | Event::Acked { data, .. } if data.error().is_empty() => {
                Ok(Ok(decode(data.value())))
            }
            Event::Response { data, .. } | Event::Acked { data, .. } => Ok(Err(data.error().to_owned())),
            other => bail!("expected an answer, got {other:?}"),
        }
    }

    /// The next call or message of the other side.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn asked(&mut self, within: Duration) -> anyhow::Result<Operation<Bytes>> {
        match self.take(within, |event| matches!(event, Event::Request(_) | Event::Message(_)))? {
            Event::Request(operation) | Event::Message(operation) => Ok(operation),
            other => bail!("expected a call or message, got {other:?}"),
        }
    }

    /// Answers a call or message.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn respond(&mut self, operation: u64, answer: Result<&[u8], &str>) -> anyhow::Result<()> {
        let object = match answer {
            Ok(value) => Object { value: Content::Plain(value), ..Object::default() },
            Err(error) => Object { error, ..Object::default() },
        };
        self.conn.respond(operation, &object);
        self.flush()
    }

    // --- events

    /// The first event, of those that have come and those that will, that is wanted; the others stay.
    ///
    /// # Errors
    /// When none comes in time, or the connection ends before.
    pub fn take(
        &mut self,
        within: Duration,
        wanted: impl Fn(&Event<Bytes>) -> bool,
    ) -> anyhow::Result<Event<Bytes>> {
        let until = Instant::now() + within;
        loop {
            if let Some(at) = self.heard.iter().position(&wanted)
                && let Some(event) = self.heard.remove(at)
            {
                return Ok(event);
            }
            if self.closed {
                bail!("the connection has ended; heard {:?}", self.heard);
            }
            if Instant::now() >= until {
                bail!("not heard within {within:?}; heard {:?}", self.heard);
            }
            self.turn()?;
        }
    }

    /// The next event.
    ///
    /// # Errors
    /// As [`Client::take`].
    pub fn next(&mut self, within: Duration) -> anyhow::Result<Event<Bytes>> {
        self.take(within, |_| true)
    }

    /// Waits until the server has closed the connection.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn closed(&mut self, within: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + within;
        while !self.closed {
            if Instant::now() >= until {
                bail!("still open after {within:?}");
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Raw bytes of a dialogue until there are so many.
    ///
    /// # Errors
    /// When they do not come in time.
    pub fn read(&mut self, dialogue: DialogueId, len: usize, within: Duration) -> anyhow::Result<Vec<u8>> {
        let mut all = Vec::with_capacity(len);
        while all.len() < len {
            let event = self.take(within, |event| matches!(event, Event::Raw(of, _) if *of == dialogue))?;
            if let Event::Raw(_, piece) = event {
                let now = self.now();
                self.conn.release(dialogue, piece.len(), now);
                all.extend_from_slice(&piece);
            }
        }
        Ok(all)
    }

    /// Writes past the protocol.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn raw(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.flush()?;
        self.socket.write_all(bytes).context("writing raw bytes")
    }

    /// Does what is due, writes what there is and reads what comes in a moment.
    fn turn(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        while let Some(event) = self.conn.handle_timeout(now) {
            self.heard.push_back(event);
        }
        self.flush()?;
        let mut buffer = vec![0; BUDGET];
        self.socket.set_read_timeout(Some(LOOK))?;
        match self.socket.read(&mut buffer) {
            Ok(0) => self.closed = true,
            Ok(n) => {
                buffer.truncate(n);
                let (mut input, now) = (Bytes::from(buffer), self.now());
                while let Some(event) = self.conn.receive(&mut input, now)? {
                    self.heard.push_back(event);
                }
                self.flush()?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.closed = true,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Writes what there is.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        loop {
            let now = self.now();
            if self.conn.wants_write(now) {
                self.conn.fill(BUDGET, now);
            }
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            self.conn.slices(&mut slices, 64);
            if slices.is_empty() {
                return Ok(());
            }
            match self.socket.write_vectored(&slices) {
                Ok(n) => self.conn.written(n, |_, _| {}),
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.closed = true;
                    return Ok(());
                }
                Err(error) => return Err(error).context("writing"),
            }
        }
    }
}
