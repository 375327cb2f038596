//! Who is online: EdgeInfo (body of the reserved methods) and PresencePage (body of Presence), read in place and written to
//! the exact length. A snapshot of a million edges passes here, so neither side builds owned structs from it.

use bytes::BufMut;

use super::head::{
    HeadError, Headers, NoHeaders,
    fields::{self, Fields},
};

const EDGE: u32 = 1;
const EPOCH: u32 = 2;
const META: u32 = 3;
const ADDR: u32 = 4;
const LABELS: u32 = 5;
const PAGE_EDGES: u32 = 1;

/// An edge as services see it, read in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct EdgeInfo<'a> {
    /// Its ID. In a `get_edge_id` request the wished one, in the answer the one to use; 0 = none.
    pub edge: u64,
    /// Epoch of its session.
    pub epoch: u64,
    /// As in Hello.
    pub meta: &'a [u8],
    /// Address and port it connects from.
    pub addr: &'a str,
    raw: &'a [u8],
}

/// Writes an EdgeInfo.
#[derive(Clone, Debug)]
pub struct EdgeInfoBuilder<'a, L = NoHeaders<'a>> {
    edge: u64,
    epoch: u64,
    meta: &'a [u8],
    addr: &'a str,
    labels: L,
}

/// The edges of a presence page that parsed.
#[derive(Clone, Debug, Default)]
pub struct PresencePage<'a> {
    fields: Fields<'a>,
}

// === impl EdgeInfo ===

impl<'a> EdgeInfo<'a> {
    /// Reads and checks the message.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(message: &'a [u8]) -> Result<Self, HeadError> {
        let mut info = Self { raw: message, ..Self::default() };
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                EDGE => info.edge = value.u64(number)?,
                EPOCH => info.epoch = value.u64(number)?,
                META => info.meta = value.bytes(number)?,
                ADDR => info.addr = value.str(number)?,
                LABELS => {
                    value.pair(number)?;
                }
                _ => {}
            }
        }
        Ok(info)
    }

    /// The edge's labels, as in Hello.
    #[must_use]
    pub const fn labels(&self) -> Headers<'a> {
        Headers::new(self.raw, LABELS)
    }
}

// === impl EdgeInfoBuilder ===

impl<'a> EdgeInfoBuilder<'a> {
    /// An edge without meta, address and labels.
    #[must_use]
    pub const fn new(edge: u64, epoch: u64) -> Self {
        Self { edge, epoch, meta: &[], addr: "", labels: std::iter::empty() }
    }
}

impl<'a, L> EdgeInfoBuilder<'a, L> {
    /// As in Hello.
    #[must_use]
    pub fn meta(mut self, meta: &'a [u8]) -> Self {
        self.meta = meta;
        self
    }

    /// Address and port it connects from.
    #[must_use]
    pub fn addr(mut self, addr: &'a str) -> Self {
        self.addr = addr;
        self
    }

    /// As in Hello, each key once.
    #[must_use]
    pub fn labels<N>(self, labels: N) -> EdgeInfoBuilder<'a, N>
    where
        N: IntoIterator<Item = (&'a str, &'a str)> + Clone,
    {
        let Self { edge, epoch, meta, addr, labels: _ } = self;
        EdgeInfoBuilder { edge, epoch, meta, addr, labels }
    }
}

impl<'a, L> EdgeInfoBuilder<'a, L>
where
    L: IntoIterator<Item = (&'a str, &'a str)> + Clone,
{
    /// Bytes of [`encode`](Self::encode).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let labels = self.labels.clone().into_iter().map(|pair| fields::pair_len(LABELS, pair));
        [
            fields::number_len(EDGE, self.edge),
            fields::number_len(EPOCH, self.epoch),
            fields::text_len(META, self.meta),
            fields::text_len(ADDR, self.addr.as_bytes()),
        ]
        .into_iter()
        .chain(labels)
        .fold(0, usize::saturating_add)
    }

    /// Appends the message, its fields in the order of their numbers.
    pub fn encode(&self, out: &mut impl BufMut) {
        fields::put_number(out, EDGE, self.edge);
        fields::put_number(out, EPOCH, self.epoch);
        fields::put_text(out, META, self.meta);
        fields::put_text(out, ADDR, self.addr.as_bytes());
        for pair in self.labels.clone() {
            fields::put_pair(out, LABELS, pair);
        }
    }

    /// Bytes that [`append_to_page`](Self::append_to_page) adds.
    #[must_use]
    pub fn page_len(&self) -> usize {
        fields::content_len(PAGE_EDGES, self.encoded_len())
    }

    /// Appends the edge to a page. Start a new page when [`page_len`](Self::page_len) would make this one longer than a
    /// frame's body.
    pub fn append_to_page(&self, page: &mut impl BufMut) {
        fields::put_content_tag(page, PAGE_EDGES, self.encoded_len());
        self.encode(page);
    }
}

// === impl PresencePage ===

impl<'a> PresencePage<'a> {
    /// Checks a page and everything in it.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(body: &'a [u8]) -> Result<Self, HeadError> {
        let page = Self { fields: Fields::new(body) };
        let mut fields = page.fields;
        while let Some((number, value)) = fields.next()? {
            if number == PAGE_EDGES {
                EdgeInfo::parse(value.bytes(number)?)?;
            }
        }
        Ok(page)
    }
}

impl<'a> Iterator for PresencePage<'a> {
    type Item = EdgeInfo<'a>;

    fn next(&mut self) -> Option<EdgeInfo<'a>> {
        while let Ok(Some((number, value))) = self.fields.next() {
            if number == PAGE_EDGES {
                return value.bytes(number).and_then(EdgeInfo::parse).ok();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
