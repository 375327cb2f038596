//! What is known of an edge. A million of these are held, so a card is packed: an address without what only local links need, a short
//! meta in place, and labels only where there are any.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use smallvec::SmallVec;

use crate::core::footprint::block;

/// Bytes of meta held in the card itself: what an ID or a short name takes, and what a heap block of its own would take of the card
/// anyway.
const SHORT_META: usize = 16;

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
    /// Services were told that it is online, so they must be told when it is not.
    pub announced: AtomicBool,
    /// It was in a list of those online that a service asked for.
    pub listed: AtomicBool,
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
            announced: AtomicBool::new(false),
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
            announced: AtomicBool::new(false),
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

    /// A service refused the edge. Whoever does so does not want to hear that it is offline, unless somebody has seen it in a list.
    pub fn refused(&self) {
        self.announced.store(false, Ordering::SeqCst);
        if self.listed.load(Ordering::SeqCst) {
            self.announced.store(true, Ordering::SeqCst);
        }
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
