//! The message Call: head of Publish, Request and Open.

use bytes::BufMut;

use super::{
    ErrorRef, HeadError,
    fields::{self, Fields, Headers, NoHeaders},
};

const NAME: u32 = 1;
const EDGE: u32 = 2;
const SERVICE: u32 = 3;
const TIMEOUT: u32 = 4;
const TOTAL_LEN: u32 = 5;
const FROM_EDGE: u32 = 6;
const FROM_SERVICE: u32 = 7;
const HEADERS: u32 = 8;
const META: u32 = 9;
const ERROR: u32 = 10;

/// Bytes of [`append_forwarded`] at most: two senders (one of them 0) and a deadline.
pub const FORWARDED_MAX: usize = 19;

/// Who sent an operation, as the gateway knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// An edge, by its ID.
    Edge(u64),
    /// A service instance, by its ID.
    Service(u64),
}

/// The head of Publish, Request and Open, read in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallHead<'a> {
    /// Method, topic or (Open) service name.
    pub name: &'a str,
    /// From services: the edge it goes to; 0 = none.
    pub edge: u64,
    /// From edges: only to instances of this service; empty = any.
    pub service: &'a str,
    /// What is left of the deadline in milliseconds; 0 = the gateway's default.
    pub timeout_ms: u32,
    /// With flag *more*: bytes of the whole body.
    pub total_len: u64,
    /// The edge that sent it; trustworthy only behind a gateway. 0 = not an edge.
    pub from_edge: u64,
    /// The service that sent it; trustworthy only behind a gateway. 0 = not a service.
    pub from_service: u64,
    /// Open: opaque, for the acceptor.
    pub meta: &'a [u8],
    /// With flag *abort*: why the rest will not come.
    pub error: Option<ErrorRef<'a>>,
    raw: &'a [u8],
}

/// Writes the head of Publish, Request and Open.
#[derive(Clone, Debug)]
pub struct CallBuilder<'a, H = NoHeaders<'a>> {
    name: &'a str,
    edge: u64,
    service: &'a str,
    timeout_ms: u32,
    total_len: u64,
    from: Option<Sender>,
    headers: H,
    meta: &'a [u8],
    error: Option<ErrorRef<'a>>,
}

// === impl Sender ===

impl Sender {
    /// The values of `from_edge` and `from_service`.
    const fn fields(self) -> (u64, u64) {
        match self {
            Self::Edge(id) => (id, 0),
            Self::Service(id) => (0, id),
        }
    }
}

// === impl CallHead ===

impl<'a> CallHead<'a> {
    /// Reads and checks a head.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(head: &'a [u8]) -> Result<Self, HeadError> {
        let mut call = Self { raw: head, ..Self::default() };
        let mut fields = Fields::new(head);
        while let Some((number, value)) = fields.next()? {
            match number {
                NAME => call.name = value.str(number)?,
                EDGE => call.edge = value.u64(number)?,
                SERVICE => call.service = value.str(number)?,
                TIMEOUT => call.timeout_ms = value.u32(number)?,
                TOTAL_LEN => call.total_len = value.u64(number)?,
                FROM_EDGE => call.from_edge = value.u64(number)?,
                FROM_SERVICE => call.from_service = value.u64(number)?,
                HEADERS => {
                    value.pair(number)?;
                }
                META => call.meta = value.bytes(number)?,
                ERROR => call.error.get_or_insert_default().merge(value.bytes(number)?)?,
                _ => {}
            }
        }
        Ok(call)
    }

    /// The string headers: traceparent, content type and the application's.
    #[must_use]
    pub const fn headers(&self) -> Headers<'a> {
        Headers::new(self.raw, HEADERS)
    }

    /// The sender a gateway vouched for.
    #[must_use]
    pub const fn sender(&self) -> Option<Sender> {
        match (self.from_edge, self.from_service) {
            (0, 0) => None,
            (0, id) => Some(Sender::Service(id)),
            (id, _) => Some(Sender::Edge(id)),
        }
    }
}

// === forwarding ===

/// Bytes of [`append_forwarded`].
#[must_use]
pub fn forwarded_len(from: Sender, timeout_ms: u32) -> usize {
    let (edge, service) = from.fields();
    fields::always_len(FROM_EDGE, edge)
        .saturating_add(fields::always_len(FROM_SERVICE, service))
        .saturating_add(fields::always_len(TIMEOUT, timeout_ms.into()))
}

/// Appends what a gateway adds to the Call head of a frame it passes on: the true sender and what is left of the deadline.
///
/// The head may hold forged values of either sender field. The last value of a field wins, so *both* are written, 0 for the
/// one that does not apply, and the deadline even if it is 0.
pub fn append_forwarded(out: &mut impl BufMut, from: Sender, timeout_ms: u32) {
    let (edge, service) = from.fields();
    fields::put_always(out, FROM_EDGE, edge);
    fields::put_always(out, FROM_SERVICE, service);
    fields::put_always(out, TIMEOUT, timeout_ms.into());
}

// === impl CallBuilder ===

impl<'a> CallBuilder<'a> {
    /// A head with only a name: method, topic or service name.
    #[must_use]
    pub const fn new(name: &'a str) -> Self {
        Self {
            name,
            edge: 0,
            service: "",
            timeout_ms: 0,
            total_len: 0,
            from: None,
            headers: std::iter::empty(),
            meta: &[],
            error: None,
        }
    }

    /// The head of a last fragment with flag *abort*: only the error.
    #[must_use]
    pub const fn abort(error: ErrorRef<'a>) -> Self {
        let mut head = Self::new("");
        head.error = Some(error);
        head
    }
}

impl<'a, H> CallBuilder<'a, H> {
    /// From services: the edge it goes to.
    #[must_use]
    pub fn edge(mut self, edge: u64) -> Self {
        self.edge = edge;
        self
    }

    /// From edges: only to instances of this service.
    #[must_use]
    pub fn service(mut self, service: &'a str) -> Self {
        self.service = service;
        self
    }

    /// What is left of the deadline in milliseconds; 0 = the gateway's default.
    #[must_use]
    pub fn timeout_ms(mut self, timeout_ms: u32) -> Self {
        self.timeout_ms = timeout_ms;
        self
    }

    /// Bytes of the whole body, for a body in fragments.
    #[must_use]
    pub fn total_len(mut self, total_len: u64) -> Self {
        self.total_len = total_len;
        self
    }

    /// The sender; for gateways, which make operations of their own.
    #[must_use]
    pub fn sender(mut self, from: Sender) -> Self {
        self.from = Some(from);
        self
    }

    /// The string headers, each key once.
    #[must_use]
    pub fn headers<N>(self, headers: N) -> CallBuilder<'a, N>
    where
        N: IntoIterator<Item = (&'a str, &'a str)> + Clone,
    {
        let Self { name, edge, service, timeout_ms, total_len, from, headers: _, meta, error } = self;
        CallBuilder { name, edge, service, timeout_ms, total_len, from, headers, meta, error }
    }

    /// With flag *abort*: why the rest will not come.
    #[must_use]
    pub fn error(mut self, error: ErrorRef<'a>) -> Self {
        self.error = Some(error);
        self
    }

    /// Open: opaque, for the acceptor.
    #[must_use]
    pub fn meta(mut self, meta: &'a [u8]) -> Self {
        self.meta = meta;
        self
    }
}

impl<'a, H> CallBuilder<'a, H>
where
    H: IntoIterator<Item = (&'a str, &'a str)> + Clone,
{
    /// Bytes of [`encode`](Self::encode).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let (from_edge, from_service) = self.sender_ids();
        let headers = self.headers.clone().into_iter().map(|pair| fields::pair_len(HEADERS, pair));
        [
            fields::text_len(NAME, self.name.as_bytes()),
            fields::number_len(EDGE, self.edge),
            fields::text_len(SERVICE, self.service.as_bytes()),
            fields::number_len(TIMEOUT, self.timeout_ms.into()),
            fields::number_len(TOTAL_LEN, self.total_len),
            fields::number_len(FROM_EDGE, from_edge),
            fields::number_len(FROM_SERVICE, from_service),
            fields::text_len(META, self.meta),
            self.error.map_or(0, |error| error.field_len(ERROR)),
        ]
        .into_iter()
        .chain(headers)
        .fold(0, usize::saturating_add)
    }

    /// Appends the head, its fields in the order of their numbers.
    pub fn encode(&self, out: &mut impl BufMut) {
        let (from_edge, from_service) = self.sender_ids();
        fields::put_text(out, NAME, self.name.as_bytes());
        fields::put_number(out, EDGE, self.edge);
        fields::put_text(out, SERVICE, self.service.as_bytes());
        fields::put_number(out, TIMEOUT, self.timeout_ms.into());
        fields::put_number(out, TOTAL_LEN, self.total_len);
        fields::put_number(out, FROM_EDGE, from_edge);
        fields::put_number(out, FROM_SERVICE, from_service);
        for pair in self.headers.clone() {
            fields::put_pair(out, HEADERS, pair);
        }
        fields::put_text(out, META, self.meta);
        if let Some(error) = &self.error {
            error.put_field(out, ERROR);
        }
    }

    fn sender_ids(&self) -> (u64, u64) {
        self.from.map_or((0, 0), Sender::fields)
    }
}
