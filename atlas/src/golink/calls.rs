//! The calls of a Go gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use frontier_wire::geminio::text::NO_SUCH_RPC;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The methods, in the order in which they are offered.
pub(super) const METHODS: [&str; 7] = [
    "edge_online",
    "edge_offline",
    "edge_heartbeat",
    "service_online",
    "service_offline",
    "service_heartbeat",
    "frontier_stats",
];

/// Bytes of a service's name.
const NAME_MAX: usize = 255;

/// An address that is not known.
pub(super) const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What a gateway tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    EdgeOnline { id: u64, addr: SocketAddr },
    EdgeOffline { id: u64 },
    EdgeHeartbeat { id: u64 },
    ServiceOnline { id: u64, addr: SocketAddr, name: String },
    ServiceOffline { id: u64 },
    ServiceHeartbeat { id: u64 },
    Stats { edges: u64, services: u64 },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Edge {
    frontier_id: String,
    edge_id: u64,
    addr: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Service {
    frontier_id: String,
    service_id: u64,
    /// The text of the JSON object that the service has sent when it connected.
    service: String,
    addr: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    service: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stats {
    frontier_id: String,
    edge_count: i64,
    service_count: i64,
}

/// Reads a call of the gateway with this name.
///
/// # Errors
/// The text that the gateway gets as an answer.
pub(super) fn parse(method: &[u8], value: &[u8], frontier_id: &str) -> Result<Call, String> {
    let edge = || of_whom(read::<Edge>(value)?, frontier_id, |edge| (&edge.frontier_id, edge.edge_id));
    let service = || {
        of_whom(read::<Service>(value)?, frontier_id, |service| (&service.frontier_id, service.service_id))
    };
    Ok(match method {
        b"edge_online" => {
            let edge = edge()?;
            Call::EdgeOnline { id: edge.edge_id, addr: addr(&edge.addr) }
        }
        b"edge_offline" => Call::EdgeOffline { id: edge()?.edge_id },
        b"edge_heartbeat" => Call::EdgeHeartbeat { id: edge()?.edge_id },
        b"service_online" => {
            let service = service()?;
            let name = name(&service.service)?;
            Call::ServiceOnline { id: service.service_id, addr: addr(&service.addr), name }
        }
        b"service_offline" => Call::ServiceOffline { id: service()?.service_id },
        b"service_heartbeat" => Call::ServiceHeartbeat { id: service()?.service_id },
        b"frontier_stats" => {
            let stats: Stats = read(value)?;
            own(&stats.frontier_id, frontier_id)?;
            let count = |count: i64| u64::try_from(count).unwrap_or_default();
            Call::Stats { edges: count(stats.edge_count), services: count(stats.service_count) }
        }
        other => return Err(format!("{NO_SUCH_RPC}{}", String::from_utf8_lossy(other))),
    })
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("invalid argument: {error}"))
}

fn own(name: &str, frontier_id: &str) -> Result<(), String> {
    if name == frontier_id {
        Ok(())
    } else {
        Err("invalid argument: frontier_id is that of another gateway".to_owned())
    }
}

fn of_whom<T>(
    request: T,
    frontier_id: &str,
    parts: impl for<'a> Fn(&'a T) -> (&'a String, u64),
) -> Result<T, String> {
    let (name, id) = parts(&request);
    own(name, frontier_id)?;
    if id == 0 {
        return Err("invalid argument: 0 is no ID".to_owned());
    }
    Ok(request)
}

/// It is shown to people and used for nothing else, so whatever is no IP address and port is none.
fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap_or(NOWHERE)
}

fn name(meta: &str) -> Result<String, String> {
    // A service may have sent anything; the Go gateway takes it without a name then.
    let Meta { service } = serde_json::from_str(meta).unwrap_or_default();
    if service.len() > NAME_MAX {
        return Err(format!("invalid argument: a service's name has more than {NAME_MAX} bytes"));
    }
    Ok(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, value: &str) -> Result<Call, String> {
        parse(method.as_bytes(), value.as_bytes(), "g")
    }

    #[test]
    fn every_call_is_read() {
        let addr = "1.2.3.4:5".parse().unwrap();
        assert_eq!(
            call("edge_online", r#"{"frontier_id":"g","edge_id":18446744073709551615,"addr":"1.2.3.4:5"}"#),
            Ok(Call::EdgeOnline { id: u64::MAX, addr })
        );
        assert_eq!(
            call("edge_offline", r#"{"frontier_id":"g","edge_id":7}"#),
            Ok(Call::EdgeOffline { id: 7 })
        );
        assert_eq!(
            call("edge_heartbeat", r#"{"frontier_id":"g","edge_id":7,"new":[]}"#),
            Ok(Call::EdgeHeartbeat { id: 7 })
        );
        assert_eq!(
            call(
                "service_online",
                r#"{"frontier_id":"g","service_id":7,"service":"{\"service\":\"s\",\"topics\":null}","addr":"x"}"#
            ),
            Ok(Call::ServiceOnline { id: 7, addr: NOWHERE, name: "s".to_owned() })
        );
        assert_eq!(
            call("service_online", r#"{"frontier_id":"g","service_id":7,"service":"no JSON"}"#),
            Ok(Call::ServiceOnline { id: 7, addr: NOWHERE, name: String::new() })
        );
        assert_eq!(
            call("service_offline", r#"{"frontier_id":"g","service_id":7}"#),
            Ok(Call::ServiceOffline { id: 7 })
        );
        assert_eq!(
            call("service_heartbeat", r#"{"frontier_id":"g","service_id":7}"#),
            Ok(Call::ServiceHeartbeat { id: 7 })
        );
        assert_eq!(
            call("frontier_stats", r#"{"frontier_id":"g","edge_count":-1,"service_count":3}"#),
            Ok(Call::Stats { edges: 0, services: 3 })
        );
    }

    #[test]
    fn what_makes_no_sense_is_answered_with_an_error() {
        for (method, value) in [
            ("edge_online", ""),
            ("edge_online", "[1]"),
            ("edge_online", r#"{"frontier_id":"g","edge_id":0,"addr":"1.2.3.4:5"}"#),
            ("edge_online", r#"{"frontier_id":"g","edge_id":-1,"addr":"1.2.3.4:5"}"#),
            ("edge_offline", r#"{"frontier_id":"of another","edge_id":7}"#),
            ("frontier_stats", r#"{"frontier_id":"of another"}"#),
        ] {
            assert!(call(method, value).unwrap_err().starts_with("invalid argument"), "{method} {value}");
        }
        let long = serde_json::json!({ "service": "x".repeat(256) }).to_string();
        let long = serde_json::json!({ "frontier_id": "g", "service_id": 7, "service": long }).to_string();
        assert!(call("service_online", &long).is_err());
        assert_eq!(call("edge_kick", "{}"), Err("no such rpc: edge_kick".to_owned()));
    }
}
