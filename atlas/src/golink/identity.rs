//! Who a Go gateway is.

use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;

use crate::record::Instance;
use crate::store::{Gateway, Roster};

/// What the Go registry answers to a name that is taken.
pub(super) const TAKEN: &str = "frontier already set";

/// In front of what is hashed, so that the result is nobody else's.
const TAG: &[u8] = b"frontier go gateway\0";

/// Bytes of a name, and of each address.
const TEXT_MAX: usize = 255;

/// What a Go gateway says of itself when it connects.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    frontier_id: String,
    advertised_servicebound_addr: String,
    advertised_edgebound_addr: String,
}

/// Reads what a gateway says of itself. Empty texts are allowed: it sends them if it cannot find out its own address.
pub(super) fn gateway(meta: &[u8]) -> Result<Gateway, String> {
    let meta: Meta = serde_json::from_slice(meta).map_err(|error| format!("illegal meta: {error}"))?;
    let texts = [&meta.frontier_id, &meta.advertised_servicebound_addr, &meta.advertised_edgebound_addr];
    if texts.iter().any(|text| text.len() > TEXT_MAX || text.chars().any(char::is_control)) {
        return Err("illegal meta: a name or address is no text of at most 255 bytes".to_owned());
    }
    Ok(Gateway {
        instance: instance(
            &meta.frontier_id,
            &meta.advertised_servicebound_addr,
            &meta.advertised_edgebound_addr,
        ),
        frontier_id: meta.frontier_id,
        service_addr: meta.advertised_servicebound_addr,
        edge_addr: meta.advertised_edgebound_addr,
    })
}

/// Whether this gateway may connect, as far as others go.
///
/// Two Go gateways of one name are a mistake in somebody's configuration, and the second one learns of it as ever: its start fails. A Go
/// gateway beside a Rust one of its name is what a rolling replacement on one node looks like: they are told apart by their instances. Where
/// a Rust gateway has taken the very place of the Go one, that one is gone, and what still connects in its name is a remainder.
pub(super) fn admit(gateway: &Gateway, roster: &Roster) -> Result<(), &'static str> {
    let own = roster.members.get(&gateway.instance);
    let replaced = own.and_then(|own| own.superseded_by).is_some_and(|by| roster.lives(by));
    let taken = roster.members.values().map(|member| &member.gateway).any(|other| {
        other.frontier_id == gateway.frontier_id
            && other.instance != gateway.instance
            && other.instance == instance(&other.frontier_id, &other.service_addr, &other.edge_addr)
            && roster.lives(other.instance)
    });
    if replaced || taken { Err(TAKEN) } else { Ok(()) }
}

/// The same for the same name and addresses, for ever and at every atlas. Each text goes with its length, so that no two triples look alike.
fn instance(frontier_id: &str, service_addr: &str, edge_addr: &str) -> Instance {
    let mut all = TAG.to_vec();
    for text in [frontier_id, service_addr, edge_addr] {
        all.extend_from_slice(&(text.len() as u64).to_be_bytes());
        all.extend_from_slice(text.as_bytes());
    }
    let hash = digest(&SHA256, &all);
    Instance(hash.as_ref().first_chunk().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::StoreTime;
    use crate::store::Member;

    fn meta(name: &str, port: u16) -> Gateway {
        let meta = serde_json::json!({
            "frontier_id": name, "advertised_servicebound_addr": format!("10.0.0.1:{port}"),
            "advertised_edgebound_addr": "10.0.0.1:30012",
        });
        gateway(meta.to_string().as_bytes()).unwrap()
    }

    fn member(gateway: Gateway, lease: u64, superseded_by: Option<Instance>) -> (Instance, Member) {
        let lease = StoreTime(lease);
        let member = Member { gateway, lease, stream: 1, edges: 0, services: 0, superseded_by };
        (member.gateway.instance, member)
    }

    #[test]
    fn an_instance_is_that_of_its_name_and_addresses_for_ever() {
        assert_eq!(meta("g", 1).instance, meta("g", 1).instance);
        assert_ne!(meta("g", 1).instance, meta("g", 2).instance);
        assert_ne!(instance("a", "bc", ""), instance("ab", "c", ""));
        assert_eq!(instance("g", "a", "b").to_string(), "b85679ce50df10b58c1be2cca260cd40");
    }

    #[test]
    fn what_is_no_meta_is_refused_and_empty_texts_are_not() {
        assert!(gateway(b"").is_err());
        assert_eq!(gateway(b"{}").unwrap().frontier_id, "");
        assert!(gateway(br#"{"frontier_id":"a\nb"}"#).is_err());
        let long = serde_json::json!({ "frontier_id": "x".repeat(256) });
        assert!(gateway(long.to_string().as_bytes()).is_err());
    }

    #[test]
    fn a_name_is_taken_while_another_go_gateway_lives() {
        let rust = Gateway { instance: Instance([7; 16]), ..meta("g", 3) };
        let living = |gateway: &Gateway| Roster {
            now: StoreTime(10),
            members: [member(gateway.clone(), 20, None)].into(),
        };
        let dead = Roster { now: StoreTime(10), members: [member(meta("g", 2), 5, None)].into() };
        assert_eq!(admit(&meta("g", 1), &living(&meta("g", 2))), Err(TAKEN));
        assert_eq!(admit(&meta("g", 1), &living(&meta("other", 2))), Ok(()));
        assert_eq!(admit(&meta("g", 1), &living(&meta("g", 1))), Ok(()), "it comes back");
        assert_eq!(admit(&meta("g", 1), &living(&rust)), Ok(()), "a rolling replacement");
        assert_eq!(admit(&meta("g", 1), &dead), Ok(()));
    }

    #[test]
    fn a_gateway_that_was_replaced_stays_away_while_its_successor_lives() {
        let rust = Gateway { instance: Instance([7; 16]), ..meta("g", 1) };
        let roster = |lease| Roster {
            now: StoreTime(10),
            members: [member(meta("g", 1), 5, Some(rust.instance)), member(rust.clone(), lease, None)].into(),
        };
        assert_eq!(admit(&meta("g", 1), &roster(20)), Err(TAKEN));
        assert_eq!(admit(&meta("g", 1), &roster(5)), Ok(()));
    }
}
