//! What atlas was told of the services here. They are few, so the whole of it is kept and compared.

use std::collections::{BTreeMap, BTreeSet};

use frontier_api::{
    bucket::{Digest, SERVICE_BUCKETS, service_bucket},
    registry::{Buckets, Changes, Digest as DigestEntry, ServiceInstance},
};

use crate::core::{card::PackedAddr, registry::ServiceHere};

/// The epochs under which services were told of, for as long as they are here. The newest instance of a service is told; when it leaves and
/// an older one stays, the epoch stays, too: in the store an older one changes nothing.
#[derive(Debug, Default)]
pub(super) struct Epochs(BTreeMap<u64, u64>);

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Services {
    told: BTreeMap<u64, ServiceHere>,
    /// Buckets to be told as a whole.
    todo: BTreeSet<u16>,
    /// Buckets whose digest has changed since it was given out.
    moved: BTreeSet<u16>,
    /// Of [`Roll::services`](crate::core::roll::Roll::services), when all that differed was told.
    version: Option<u64>,
}

// === impl Epochs ===

impl Epochs {
    fn keep(&mut self, mut services: BTreeMap<u64, ServiceHere>) -> BTreeMap<u64, ServiceHere> {
        for (id, service) in &mut services {
            service.epoch = service.epoch.max(self.0.get(id).copied().unwrap_or(0));
        }
        self.0 = services.iter().map(|(id, service)| (*id, service.epoch)).collect();
        services
    }
}

// === impl Services ===

impl Services {
    /// Nothing was told.
    pub(super) fn new() -> Self {
        Self {
            told: BTreeMap::new(),
            todo: (0..SERVICE_BUCKETS).collect(),
            moved: BTreeSet::new(),
            version: None,
        }
    }

    /// A bucket is to be told anew.
    pub(super) fn forget(&mut self, bucket: u16) {
        self.moved.remove(&bucket);
        self.todo.insert(bucket);
    }

    /// Whether there is anything to tell.
    pub(super) fn is_told(&self, version: u64) -> bool {
        self.todo.is_empty() && self.version == Some(version)
    }

    /// Whether every bucket was told as a whole, so that it is the turn of changes.
    pub(super) fn is_whole(&self) -> bool {
        self.todo.is_empty()
    }

    /// Whole buckets, as many as make a message.
    pub(super) fn whole(
        &mut self,
        epochs: &mut Epochs,
        here: BTreeMap<u64, ServiceHere>,
        most: usize,
    ) -> Buckets {
        let mut by_bucket: BTreeMap<u16, Vec<ServiceHere>> = BTreeMap::new();
        for service in epochs.keep(here).into_values() {
            by_bucket.entry(service_bucket(service.id)).or_default().push(service);
        }
        let mut message = Buckets::default();
        while let Some(bucket) = self.todo.first().copied() {
            let services = by_bucket.remove(&bucket).unwrap_or_default();
            if !message.services.is_empty() && message.services.len() + services.len() > most {
                break;
            }
            self.todo.pop_first();
            self.moved.insert(bucket);
            self.told.retain(|id, _| service_bucket(*id) != bucket);
            message.service_buckets.push(bucket.into());
            for service in services {
                message.services.push(instance(&service));
                self.told.insert(service.id, service);
            }
        }
        message
    }

    /// What has changed; `version` is from before `here` was looked at.
    pub(super) fn changes(
        &mut self,
        epochs: &mut Epochs,
        here: BTreeMap<u64, ServiceHere>,
        version: u64,
        most: usize,
    ) -> Option<Changes> {
        let here = epochs.keep(here);
        let gone = self.told.values().filter(|told| !here.contains_key(&told.id)).cloned();
        let gone = gone.map(|told| (told, false));
        let new = here.values().filter(|service| self.told.get(&service.id) != Some(service)).cloned();
        let differs: Vec<_> = gone.chain(new.map(|service| (service, true))).collect();
        if differs.len() <= most {
            self.version = Some(version);
        }
        let mut message = Changes::default();
        for (service, here) in differs.into_iter().take(most) {
            self.moved.insert(service_bucket(service.id));
            if here {
                message.services.push(instance(&service));
                self.told.insert(service.id, service);
            } else {
                let (id, epoch) = (service.id, service.epoch);
                message.services.push(ServiceInstance { id, epoch, ..ServiceInstance::default() });
                self.told.remove(&id);
            }
        }
        (!message.services.is_empty()).then_some(message)
    }

    /// The digests that have changed since they were given out.
    pub(super) fn digests(&mut self) -> Vec<DigestEntry> {
        // One that is to be told anew is of no use before.
        let (later, now) =
            std::mem::take(&mut self.moved).into_iter().partition(|bucket| self.todo.contains(bucket));
        self.moved = later;
        let mut digests: BTreeMap<u16, Digest> =
            BTreeSet::into_iter(now).map(|bucket| (bucket, Digest::default())).collect();
        for service in self.told.values() {
            if let Some(digest) = digests.get_mut(&service_bucket(service.id)) {
                digest.add(service.id, service.epoch);
            }
        }
        digests.into_iter().map(|(bucket, digest)| entry(bucket, digest)).collect()
    }

    /// It is not known whether these digests arrived.
    pub(super) fn unsure(&mut self, digests: &[DigestEntry]) {
        self.moved.extend(digests.iter().filter_map(|digest| u16::try_from(digest.bucket).ok()));
    }

    /// Services told of.
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }
}

/// A digest as it is sent.
pub(super) fn entry(bucket: u16, digest: Digest) -> DigestEntry {
    DigestEntry { bucket: bucket.into(), count: digest.count, xor: digest.xor }
}

/// An address as it is sent: IP and port.
pub(super) fn addr(addr: PackedAddr) -> Vec<u8> {
    let port = addr.socket().port().to_be_bytes();
    match addr.ip() {
        std::net::IpAddr::V4(ip) => [ip.octets().as_slice(), &port].concat(),
        std::net::IpAddr::V6(ip) => [ip.octets().as_slice(), &port].concat(),
    }
}

fn instance(service: &ServiceHere) -> ServiceInstance {
    ServiceInstance {
        id: service.id,
        epoch: service.epoch,
        addr: addr(service.addr),
        name: service.name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(services: &[(u64, u64, &str)]) -> BTreeMap<u64, ServiceHere> {
        let addr = PackedAddr::from(std::net::SocketAddr::from(([10, 0, 0, 1], 80)));
        let service = |(id, epoch, name): &(u64, u64, &str)| {
            (*id, ServiceHere { id: *id, epoch: *epoch, addr, name: (*name).into() })
        };
        services.iter().map(service).collect()
    }

    fn digest_of(digests: &[DigestEntry], id: u64) -> Option<DigestEntry> {
        digests.iter().find(|digest| digest.bucket == u32::from(service_bucket(id))).copied()
    }

    #[test]
    fn addresses_are_ip_and_port() {
        let packed = |text: &str| addr(text.parse::<std::net::SocketAddr>().unwrap().into());
        assert_eq!(packed("1.2.3.4:258"), [1, 2, 3, 4, 1, 2]);
        assert_eq!(packed("[::ffff:1.2.3.4]:258"), [1, 2, 3, 4, 1, 2]);
        assert_eq!(packed("[2001:db8::1]:80").len(), 18);
    }

    #[test]
    fn every_bucket_is_in_one_message_whole() {
        let all: Vec<_> = (1..=1_000).map(|id| (id, id, "a")).collect();
        let (mut services, mut epochs) = (Services::new(), Epochs::default());
        let (mut buckets, mut ids) = (Vec::new(), Vec::new());
        while !services.is_whole() {
            let message = services.whole(&mut epochs, here(&all), 100);
            assert!(message.services.len() <= 100);
            let of = |id| u32::from(service_bucket(id));
            assert!(message.services.iter().all(|service| message.service_buckets.contains(&of(service.id))));
            buckets.extend(message.service_buckets);
            ids.extend(message.services.into_iter().map(|service| service.id));
        }
        assert_eq!(buckets, (0..u32::from(SERVICE_BUCKETS)).collect::<Vec<_>>());
        ids.sort_unstable();
        assert_eq!(ids, (1..=1_000).collect::<Vec<_>>());
        assert!(services.changes(&mut epochs, here(&all), 1, 100).is_none());
        assert!(services.is_told(1) && !services.is_told(2));
    }

    #[test]
    fn the_difference_is_told_and_its_digests_once() {
        let (mut services, mut epochs) = (Services::new(), Epochs::default());
        services.whole(&mut epochs, here(&[(1, 10, "a"), (2, 20, "b")]), 100);
        assert_eq!(services.digests().len(), usize::from(SERVICE_BUCKETS));
        assert!(services.digests().is_empty());
        let message = services.changes(&mut epochs, here(&[(2, 20, "c"), (3, 30, "d")]), 2, 100).unwrap();
        let told: Vec<_> =
            message.services.iter().map(|s| (s.id, s.epoch, s.addr.is_empty(), s.name.as_str())).collect();
        assert_eq!(told, [(1, 10, true, ""), (2, 20, false, "c"), (3, 30, false, "d")]);
        let digests = services.digests();
        assert_eq!(digest_of(&digests, 3), Some(entry(service_bucket(3), Digest::of([(3, 30)]))));
        assert_eq!(digest_of(&digests, 1), Some(entry(service_bucket(1), Digest::default())));
        assert!(services.digests().is_empty());
        services.unsure(&digests);
        assert_eq!(services.digests(), digests);
        assert_eq!(services.len(), 2);
    }

    #[test]
    fn more_than_a_message_takes_several() {
        let all: Vec<_> = (1..=10).map(|id| (id, id, "a")).collect();
        let (mut services, mut epochs) = (Services::new(), Epochs::default());
        services.whole(&mut epochs, here(&[]), 4);
        let mut lens = Vec::new();
        while !services.is_told(1) {
            lens.push(services.changes(&mut epochs, here(&all), 1, 4).unwrap().services.len());
        }
        assert_eq!(lens, [4, 4, 2]);
    }

    #[test]
    fn an_epoch_never_falls_while_the_service_is_here() {
        let (mut services, mut epochs) = (Services::new(), Epochs::default());
        services.whole(&mut epochs, here(&[(1, 30, "new")]), 100);
        let message = services.changes(&mut epochs, here(&[(1, 20, "old")]), 1, 100).unwrap();
        assert_eq!((message.services[0].epoch, message.services[0].name.as_str()), (30, "old"));
        let message = Services::new().whole(&mut epochs, here(&[(1, 20, "old")]), 100);
        assert_eq!(message.services[0].epoch, 30, "by the next link, too");
        services.changes(&mut epochs, here(&[]), 2, 100).unwrap();
        let message = services.changes(&mut epochs, here(&[(1, 20, "old")]), 3, 100).unwrap();
        assert_eq!(message.services[0].epoch, 20, "it was gone");
    }

    #[test]
    fn a_bucket_to_be_told_anew_has_no_digest_until_it_was() {
        let (mut services, mut epochs) = (Services::new(), Epochs::default());
        services.whole(&mut epochs, here(&[(1, 10, "a")]), 100);
        services.digests();
        services.forget(service_bucket(1));
        assert!(services.digests().is_empty() && !services.is_told(0));
        let message = services.whole(&mut epochs, here(&[(1, 10, "a")]), 100);
        assert_eq!((message.service_buckets.len(), message.services.len()), (1, 1));
        assert!(digest_of(&services.digests(), 1).is_some());
    }
}
