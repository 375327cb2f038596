//! Which instance gets an operation: pure decisions over lists, independent of protocols and sessions.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use smallvec::SmallVec;

use crate::core::table::SessionRef;

/// How an instance is chosen among those that offer a name (`exchange.hashby`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Rendezvous hash of the edge ID: an edge keeps its instance while that lives, and only the edges of a lost instance move.
    #[default]
    EdgeId,
    /// Rendezvous hash of the edge's source IP.
    SourceIp,
    /// Any.
    Random,
    /// The instance with the fewest operations in flight.
    LeastInFlight,
}

/// One running service: all connections that show the same instance bits.
#[derive(Debug)]
pub struct Instance {
    /// Hash of (service ID, instance bits); the same on every gateway, so that gateways agree on the choice.
    pub key: u64,
    /// The service ID.
    pub service_id: u64,
    /// Its connections, one shard after the other.
    pub conns: SmallVec<[SessionRef; 1]>,
    /// Operations in flight to it, kept only under [`Policy::LeastInFlight`].
    pub in_flight: Arc<AtomicU32>,
}

/// The live instances that offer a name.
pub type Targets = [Arc<Instance>];

/// What a choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The policy in force.
    pub policy: Policy,
    /// Edge ID or hash of the source IP, as the policy wants.
    pub key: u64,
    /// Fresh randomness.
    pub random: u64,
    /// The shard of the sender: its own connection of a pool is preferred.
    pub shard: u16,
}

impl Policy {
    /// What it hashes of an edge.
    #[must_use]
    pub fn key(self, id: u64, ip: Option<IpAddr>) -> u64 {
        match (self, ip) {
            (Self::SourceIp, Some(IpAddr::V4(ip))) => mix(u64::from(ip.to_bits())),
            (Self::SourceIp, Some(IpAddr::V6(ip))) => {
                mix((ip.to_bits() >> 64) as u64) ^ mix(ip.to_bits() as u64)
            }
            (Self::SourceIp, None) => 0,
            (Self::EdgeId | Self::Random | Self::LeastInFlight, _) => id,
        }
    }
}

/// Chooses an instance; `skip` says which ones failed already.
#[must_use]
pub fn pick<'a>(targets: &'a Targets, choice: Choice, skip: &[u64]) -> Option<&'a Arc<Instance>> {
    let live = || targets.iter().filter(|instance| !skip.contains(&instance.key));
    match choice.policy {
        Policy::EdgeId | Policy::SourceIp if skip.is_empty() && targets.len() == 1 => targets.first(),
        Policy::EdgeId | Policy::SourceIp => live().max_by_key(|instance| weight(choice.key, instance.key)),
        Policy::Random => {
            let count = live().count().max(1) as u64;
            live().nth(usize::try_from(choice.random % count).unwrap_or(0))
        }
        Policy::LeastInFlight => live().min_by_key(|instance| {
            (instance.in_flight.load(Ordering::Relaxed), weight(choice.random, instance.key))
        }),
    }
}

/// Chooses a connection of an instance: the sender's shard's if there is one, else always the same for the same key.
#[must_use]
pub fn connection(instance: &Instance, choice: Choice) -> Option<SessionRef> {
    if let [only] = instance.conns.as_slice() {
        return Some(*only);
    }
    let local = instance.conns.iter().filter(|conn| conn.shard == choice.shard);
    let local = local.max_by_key(|conn| weight(choice.key, conn.to_bits()));
    local.or_else(|| instance.conns.iter().max_by_key(|conn| weight(choice.key, conn.to_bits()))).copied()
}

/// The rendezvous weight of a key at a candidate (highest random weight, Thaler and Ravishankar 1998).
fn weight(key: u64, candidate: u64) -> u64 {
    mix(key ^ mix(candidate))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        net::IpAddr,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use smallvec::smallvec;

    use super::{Choice, Instance, Policy, SessionRef, connection, pick};

    fn conn(shard: u16, slot: u32) -> SessionRef {
        SessionRef { shard, generation: 0, slot }
    }

    fn targets(keys: &[u64]) -> Vec<Arc<Instance>> {
        let instance = |key: &u64| {
            let in_flight = Arc::new(AtomicU32::new(0));
            Arc::new(Instance {
                key: *key,
                service_id: *key,
                conns: smallvec![conn(0, *key as u32)],
                in_flight,
            })
        };
        keys.iter().map(instance).collect()
    }

    fn choice(policy: Policy, key: u64) -> Choice {
        Choice { policy, key, random: key.wrapping_mul(0x1234_5678_9abc_def1), shard: 0 }
    }

    #[test]
    fn nobody_is_chosen_from_none() {
        for policy in [Policy::EdgeId, Policy::SourceIp, Policy::Random, Policy::LeastInFlight] {
            assert!(pick(&[], choice(policy, 1), &[]).is_none());
            assert!(pick(&targets(&[5]), choice(policy, 1), &[5]).is_none());
            assert_eq!(pick(&targets(&[5]), choice(policy, 1), &[]).unwrap().key, 5);
        }
    }

    #[test]
    fn hash_policies_spread_and_keep_their_choice() {
        for policy in [Policy::EdgeId, Policy::SourceIp] {
            let four = targets(&[1, 2, 3, 4]);
            let three = targets(&[1, 2, 4]);
            let mut share: HashMap<u64, u32> = HashMap::new();
            for edge in 0..4000 {
                let before = pick(&four, choice(policy, edge), &[]).unwrap().key;
                *share.entry(before).or_default() += 1;
                let after = pick(&three, choice(policy, edge), &[]).unwrap().key;
                assert!(before == 3 || before == after, "only the edges of the lost instance move");
                let skipped = pick(&four, choice(policy, edge), &[before]).unwrap().key;
                assert_ne!(skipped, before);
            }
            assert!(share.values().all(|n| (800..1200).contains(n)), "{share:?}");
        }
    }

    #[test]
    fn each_policy_hashes_what_it_is_named_after() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for policy in [Policy::EdgeId, Policy::Random, Policy::LeastInFlight] {
            assert_eq!(policy.key(7, ip("10.0.0.1")), policy.key(7, ip("10.0.0.2")));
            assert_ne!(policy.key(7, ip("10.0.0.1")), policy.key(8, ip("10.0.0.1")));
        }
        let addresses = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "fd00:0:0:1::1"].map(ip);
        let keys: HashSet<u64> = addresses.iter().map(|ip| Policy::SourceIp.key(7, *ip)).collect();
        assert_eq!(keys.len(), addresses.len(), "any part of an address counts");
        for ip in addresses {
            assert_eq!(Policy::SourceIp.key(7, ip), Policy::SourceIp.key(8, ip), "and nothing else");
        }
    }

    #[test]
    fn order_of_the_list_does_not_matter_to_hashes() {
        let (ab, ba) = (targets(&[10, 20, 30]), targets(&[30, 10, 20]));
        for edge in 0..500 {
            let one = pick(&ab, choice(Policy::EdgeId, edge), &[]).unwrap().key;
            assert_eq!(one, pick(&ba, choice(Policy::EdgeId, edge), &[]).unwrap().key);
        }
    }

    #[test]
    fn random_reaches_everybody() {
        let all = targets(&[1, 2, 3]);
        let mut seen: HashMap<u64, u32> = HashMap::new();
        for key in 0..3000 {
            *seen.entry(pick(&all, choice(Policy::Random, key), &[]).unwrap().key).or_default() += 1;
        }
        assert!(seen.len() == 3 && seen.values().all(|n| *n > 800), "{seen:?}");
    }

    #[test]
    fn least_in_flight_wins() {
        let all = targets(&[1, 2, 3]);
        all[0].in_flight.store(5, Ordering::Relaxed);
        all[2].in_flight.store(1, Ordering::Relaxed);
        all[1].in_flight.store(2, Ordering::Relaxed);
        assert_eq!(pick(&all, choice(Policy::LeastInFlight, 9), &[]).unwrap().key, 3);
        assert_eq!(pick(&all, choice(Policy::LeastInFlight, 9), &[3]).unwrap().key, 2);
    }

    #[test]
    fn own_shard_is_preferred_and_the_choice_is_stable() {
        let in_flight = Arc::new(AtomicU32::new(0));
        let conns = smallvec![conn(0, 1), conn(1, 2), conn(2, 3)];
        let pool = Instance { key: 1, service_id: 1, conns, in_flight };
        let local = Choice { policy: Policy::EdgeId, key: 77, random: 0, shard: 1 };
        assert_eq!(connection(&pool, local), Some(conn(1, 2)));
        let away = Choice { shard: 9, ..local };
        assert_eq!(connection(&pool, away), connection(&pool, away));
        assert!(connection(&pool, away).is_some());
    }
}
