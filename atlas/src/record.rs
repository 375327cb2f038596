//! What is kept of edges, services and gateways, and how the first two look in a store.
//!
//! A record of an edge fits into what Redis packs tightly: 34 bytes with an IPv4 address, 46 with an IPv6 one, big-endian.
//!
//! ```text
//!  0         8              24       28         32
//!  ┌─────────┬──────────────┬────────┬──────────┬─────────┐
//!  │ epoch   │ instance     │ stream │ IP       │ port    │   of a service: then its name
//!  └─────────┴──────────────┴────────┴──────────┴─────────┘
//! ```
//!
//! The first 24 bytes are the claim: as numbers they order sessions of one ID, and the greatest is the newest.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Epochs carry milliseconds since 1970 above this many bits of a counter.
pub const COUNTER_BITS: u32 = 20;

/// Bytes of a record before its address.
const HEAD: usize = 28;

/// A process of a gateway: 128 random bits, drawn when it starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub [u8; 16]);

/// Milliseconds since 1970 by the store's clock, the only one that instances of atlas and gateways share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTime(pub u64);

/// A session's right to an ID. Of two claims the greater is that of the newer session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Milliseconds of store time and a counter, fixed at admission.
    pub epoch: u64,
    /// The gateway that holds the session; decides between equal epochs.
    pub instance: Instance,
}

/// Where an edge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeRecord {
    /// Whose session it is.
    pub claim: Claim,
    /// Which link of its gateway to atlas wrote it, counted from 1: what an older link sent late changes nothing.
    pub stream: u32,
    /// The edge's address as its gateway saw it.
    pub addr: SocketAddr,
}

/// Where an instance of a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Whose session it is.
    pub claim: Claim,
    /// As of an edge.
    pub stream: u32,
    /// As of an edge.
    pub addr: SocketAddr,
    /// The service's name; several instances share it.
    pub name: String,
}

// === impl Instance ===

impl Instance {
    /// Reads what [`Display`](fmt::Display) writes: 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()))
    }

    /// Its last 64 bits.
    #[must_use]
    pub const fn low(self) -> u64 {
        u128::from_be_bytes(self.0) as u64
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl StoreTime ===

impl StoreTime {
    /// So many milliseconds later.
    #[must_use]
    pub const fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// The least epoch of this moment.
    #[must_use]
    pub const fn epoch(self) -> u64 {
        self.0 << COUNTER_BITS
    }

    /// The moment that an epoch was given.
    #[must_use]
    pub const fn of_epoch(epoch: u64) -> Self {
        Self(epoch >> COUNTER_BITS)
    }
}

// === impl Claim ===

impl Claim {
    /// As it is compared in a store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [self.epoch.to_be_bytes().as_slice(), &self.instance.0].concat()
    }
}

// === impl EdgeRecord ===

impl EdgeRecord {
    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + 18);
        encode_head(&self.claim, self.stream, &mut out);
        match self.addr.ip().to_canonical() {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
        out.extend_from_slice(&self.addr.port().to_be_bytes());
        out
    }

    /// Reads what is stored; `None` if that is not a record.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (claim, stream, rest) = decode_head(bytes)?;
        let (ip, port) = rest.split_last_chunk::<2>()?;
        let ip = match ip.len() {
            4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
            16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
            _ => return None,
        };
        Some(Self { claim, stream, addr: SocketAddr::new(ip, u16::from_be_bytes(*port)) })
    }
}

// === impl ServiceRecord ===

impl ServiceRecord {
    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + 18 + self.name.len());
        encode_head(&self.claim, self.stream, &mut out);
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        out.extend_from_slice(&ip.octets());
        out.extend_from_slice(&self.addr.port().to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
        out
    }

    /// Reads what is stored; `None` if that is not a record.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (claim, stream, rest) = decode_head(bytes)?;
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        let (port, name) = rest.split_first_chunk::<2>()?;
        let ip = Ipv6Addr::from(*ip).to_canonical();
        let addr = SocketAddr::new(ip, u16::from_be_bytes(*port));
        Some(Self { claim, stream, addr, name: String::from_utf8(name.to_vec()).ok()? })
    }
}

fn encode_head(claim: &Claim, stream: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&claim.epoch.to_be_bytes());
    out.extend_from_slice(&claim.instance.0);
    out.extend_from_slice(&stream.to_be_bytes());
}

fn decode_head(bytes: &[u8]) -> Option<(Claim, u32, &[u8])> {
    let (epoch, rest) = bytes.split_first_chunk::<8>()?;
    let (instance, rest) = rest.split_first_chunk::<16>()?;
    let (stream, rest) = rest.split_first_chunk::<4>()?;
    let claim = Claim { epoch: u64::from_be_bytes(*epoch), instance: Instance(*instance) };
    Some((claim, u32::from_be_bytes(*stream), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims() -> impl Strategy<Value = Claim> {
        let instance = any::<[u8; 16]>().prop_map(Instance);
        (any::<u64>(), instance).prop_map(|(epoch, instance)| Claim { epoch, instance })
    }

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    proptest! {
        #[test]
        fn instances_come_back(bytes: [u8; 16], text: String) {
            prop_assert_eq!(Instance::parse(&Instance(bytes).to_string()), Some(Instance(bytes)));
            if let Some(instance) = Instance::parse(&text) {
                prop_assert_eq!(instance.to_string(), text.to_ascii_lowercase());
            }
        }

        #[test]
        fn edges_come_back(claim in claims(), stream: u32, addr in addresses()) {
            let record = EdgeRecord { claim, stream, addr };
            prop_assert_eq!(EdgeRecord::decode(&record.encode()), Some(record));
        }

        #[test]
        fn services_come_back(claim in claims(), stream: u32, addr in addresses(), name: String) {
            let record = ServiceRecord { claim, stream, addr, name };
            prop_assert_eq!(ServiceRecord::decode(&record.encode()), Some(record));
        }

        #[test]
        fn anything_may_be_decoded(bytes: Vec<u8>) {
            if let Some(record) = EdgeRecord::decode(&bytes) {
                prop_assert_eq!(EdgeRecord::decode(&record.encode()), Some(record));
            }
            let _ = ServiceRecord::decode(&bytes);
        }

        #[test]
        fn bytes_order_claims_as_their_fields_do(one in claims(), other in claims()) {
            let bytes = |claim| {
                let addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1);
                EdgeRecord { claim, stream: 1, addr }.encode()
            };
            prop_assert_eq!(bytes(one).cmp(&bytes(other)), one.cmp(&other));
        }
    }

    #[test]
    fn a_record_of_an_edge_stays_small() {
        let claim = Claim { epoch: 1, instance: Instance([7; 16]) };
        let bytes = |addr: &str| EdgeRecord { claim, stream: 1, addr: addr.parse().unwrap() }.encode().len();
        assert_eq!((bytes("10.0.0.1:1"), bytes("[2001:db8::1]:1")), (34, 46));
        assert_eq!(bytes("[::ffff:10.0.0.1]:1"), 34);
    }
}
