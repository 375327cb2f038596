//! What is known of an edge. A million of these are held, so a card is packed: an address without what only local links need, a short
//! meta in place, and labels only where there are any.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};

use smallvec::SmallVec;

use crate::core::footprint::block;

/// Bytes of meta held in the card itself: what an ID or a short name takes, and what a heap block of its own would take of the card
/// anyway.
const SHORT_META: usize = 16;

/// Nothing yet.
const UNSAID: u8 = 0;
/// That the edge is online.
const ANNOUNCED: u8 = 1;
/// The same, and one of them refused it.
const REFUSED: u8 = 2;
/// The session is over, and nothing more is told of it.
const OVER: u8 = 3;

/// The labels of an edge.
type Labels = Box<[Label]>;
type Label = (Box<str>, Box<str>);

/// The labels of an edge, one by one.
pub type LabelIter<'a> = std::iter::Map<std::slice::Iter<'a, Label>, fn(&'a Label) -> (&'a str, &'a str)>;

/// What is known of an edge that is or was online.
#[derive(Debug)]
pub struct EdgeCard {
    /// The edge ID.
    pub id: u64,
    /// Greater in a later session of the same ID.
    pub epoch: u64,
    /// Where it connected from.
    pub addr: PackedAddr,
    /// What services were told of the session, one of the constants below. It changes once per step and never goes back from
    /// [`OVER`], so that whoever overtakes a session and whoever admits it, on two shards, agree on what is told of it.
    word: AtomicU8,
    /// It was in a list of those online that a service asked for.
    listed: AtomicBool,
    /// Bytes that meta and labels take beside the card.
    held: u32,
    meta: SmallVec<[u8; SHORT_META]>,
    labels: Option<Box<Labels>>,
}

/// An address and port in 18 bytes instead of 32. Flow label and scope of IPv6 are not kept; an IPv4 address that was mapped into
/// IPv6 by a listener for both comes out as the IPv4 address it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PackedAddr {
    ip: [u8; 16],
    port: [u8; 2],
}

// === impl EdgeCard ===

impl EdgeCard {
    /// A card of an edge that nobody has been told of.
    pub fn new(
        (id, epoch): (u64, u64),
        addr: SocketAddr,
        meta: &[u8],
        labels: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let labels: Labels =
            labels.into_iter().map(|(key, value)| (key.into_boxed_str(), value.into_boxed_str())).collect();
        Self {
            id,
            epoch,
            addr: addr.into(),
            word: AtomicU8::new(UNSAID),
            listed: AtomicBool::new(false),
            held: u32::try_from(heap(meta, &labels)).unwrap_or(u32::MAX),
            meta: SmallVec::from_slice(meta),
            labels: (!labels.is_empty()).then(|| Box::new(labels)),
        }
    }

    /// The same edge in a later session.
    #[must_use]
    pub fn with_epoch(&self, epoch: u64) -> Self {
        Self {
            id: self.id,
            epoch,
            addr: self.addr,
            word: AtomicU8::new(UNSAID),
            listed: AtomicBool::new(false),
            held: self.held,
            meta: self.meta.clone(),
            labels: self.labels.clone(),
        }
    }

    /// Opaque bytes of the edge.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// Labels of the edge, usually none.
    pub fn labels(&self) -> LabelIter<'_> {
        let labels: &[Label] = self.labels.as_ref().map_or(&[], |labels| labels);
        labels.iter().map(|(key, value)| (key, value))
    }

    /// Bytes of memory that the card takes beyond its fixed size: a long meta, and labels.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held as usize
    }

    /// As [`EdgeCard::held`], counted afresh.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn count_held(&self) -> usize {
        heap(&self.meta, self.labels.as_deref().map_or(&[], |labels| labels))
    }

    /// Services are to be told that the edge is online, and from then on they must be told when it is not. Not of a session that was
    /// overtaken before it came to that: then nobody hears of it, now or later.
    #[must_use]
    pub fn announce(&self) -> bool {
        self.turn(UNSAID, ANNOUNCED)
    }

    /// Whether services know of the edge.
    pub fn announced(&self) -> bool {
        self.word.load(Ordering::SeqCst) == ANNOUNCED
    }

    /// The session is over. Says whether services must be told, which it says once.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        self.word.swap(OVER, Ordering::SeqCst) == ANNOUNCED
    }

    /// The session is over here, and services hear of the edge from somebody else.
    pub fn hand_over(&self) {
        self.word.store(OVER, Ordering::SeqCst);
    }

    /// A service refused the edge. Whoever does so does not want to hear that it is offline, unless somebody has seen it in a list.
    pub fn refused(&self) {
        let seen = || self.listed.load(Ordering::SeqCst);
        if !seen() && self.turn(ANNOUNCED, REFUSED) && seen() {
            self.turn(REFUSED, ANNOUNCED);
        }
    }

    /// Notes that the edge is on somebody's list, and says whether it belongs there: services know that it is online, or are asked
    /// whether it may be.
    pub fn list(&self) -> bool {
        // In this order, so that a refusal at the same time is seen here, or this there.
        self.listed.store(true, Ordering::SeqCst);
        self.announced()
    }

    fn turn(&self, from: u8, to: u8) -> bool {
        self.word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

fn heap(meta: &[u8], labels: &[Label]) -> usize {
    let meta = if meta.len() > SHORT_META { block(meta.len()) } else { 0 };
    if labels.is_empty() {
        return meta;
    }
    let texts: usize = labels.iter().map(|(key, value)| block(key.len()) + block(value.len())).sum();
    meta + texts + block(size_of_val(labels)) + size_of::<Labels>()
}

// === impl PackedAddr ===

impl PackedAddr {
    /// The address without the port.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }

    /// As the standard library has it.
    #[must_use]
    pub fn socket(self) -> SocketAddr {
        SocketAddr::new(self.ip(), u16::from_be_bytes(self.port))
    }
}

impl From<SocketAddr> for PackedAddr {
    fn from(addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: addr.port().to_be_bytes() }
    }
}

impl fmt::Display for PackedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket().fmt(f)
    }
}

impl fmt::Debug for PackedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{EdgeCard, PackedAddr};

    fn card() -> EdgeCard {
        EdgeCard::new((7, 1), ([10, 1, 2, 3], 4).into(), b"", [])
    }

    #[test]
    fn an_end_is_told_once_and_only_of_a_session_whose_beginning_was() {
        let told = card();
        assert!(told.announce() && told.announced());
        assert!(told.withdraw(), "its end is news");
        assert!(!told.withdraw() && !told.announced(), "it is none any more");
        // Overtaken on its way in: neither is told, whatever comes later.
        let overtaken = card();
        assert!(!overtaken.withdraw());
        assert!(!overtaken.announce() && !overtaken.withdraw());
        // It came back at another gateway.
        let elsewhere = card();
        assert!(elsewhere.announce());
        elsewhere.hand_over();
        assert!(!elsewhere.withdraw());
    }

    #[test]
    fn the_end_of_an_edge_that_was_refused_is_told_only_if_somebody_has_seen_it() {
        let unseen = card();
        assert!(unseen.announce());
        unseen.refused();
        assert!(!unseen.list() && !unseen.withdraw());
        let seen = card();
        assert!(seen.announce() && seen.list());
        seen.refused();
        assert!(seen.withdraw());
    }

    /// Idle memory is a published number (ARCHITECTURE.md). With the two counters of an `Arc` it fits the allocator's class of 96.
    #[test]
    fn a_card_stays_small() {
        assert!(size_of::<EdgeCard>() + 16 <= 96, "{} bytes", size_of::<EdgeCard>());
    }

    #[test]
    fn addresses_come_out_as_they_are_shown() {
        for (addr, shown) in [
            ("10.1.2.3:65535", "10.1.2.3:65535"),
            ("[::ffff:10.1.2.3]:80", "10.1.2.3:80"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[::]:0", "[::]:0"),
        ] {
            assert_eq!(PackedAddr::from(addr.parse::<std::net::SocketAddr>().unwrap()).to_string(), shown);
        }
    }

    #[test]
    fn meta_and_labels_are_kept_whatever_their_length() {
        for len in [0, 16, 17, 5_000] {
            let meta = vec![7; len];
            let labels = (0..len % 5).map(|n| (n.to_string(), "x".repeat(n)));
            let card = EdgeCard::new((1, 2), ([127, 0, 0, 1], 1).into(), &meta, labels.clone());
            for card in [card.with_epoch(3), card] {
                assert_eq!(card.meta(), meta);
                assert!(card.held() >= if len > 16 { len } else { 0 }, "{}", card.held());
                assert_eq!(card.held(), card.count_held());
                assert!(
                    card.labels().eq(labels.clone().collect::<Vec<_>>().iter().map(|(k, v)| (&**k, &**v)))
                );
            }
        }
    }
}
