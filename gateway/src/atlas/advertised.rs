//! Where others reach a listener of this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use frontier_ops::config::Listen;

/// The address of a listener for others: `advertised_addr`, else the address it listens on, with its real port. Where that is every address
/// of the machine, the one by which the machine reaches other networks stands for it; if there is none, the host is left empty, for
/// [`AtlasDial`](super::AtlasDial) to fill in.
#[must_use]
pub fn advertised(listen: &Listen, bound: SocketAddr) -> String {
    advertised_by(listen, bound, default_route)
}

fn advertised_by(listen: &Listen, bound: SocketAddr, route: impl Fn(bool) -> Option<IpAddr>) -> String {
    if !listen.advertised_addr.is_empty() {
        return listen.advertised_addr.clone();
    }
    let host = match bound.ip().to_canonical() {
        // A listener on `[::]` takes connections to either kind of address.
        ip if ip.is_unspecified() => route(bound.is_ipv6()),
        ip => Some(ip),
    };
    match host {
        Some(ip) => SocketAddr::new(ip, bound.port()).to_string(),
        None => format!(":{}", bound.port()),
    }
}

/// The address of an advertisement whose host is left empty, on a machine that is reached under this one.
pub(super) fn fill_host(addr: &mut String, host: IpAddr) {
    if let Some(port) = addr.strip_prefix(':').and_then(|port| port.parse().ok()) {
        *addr = SocketAddr::new(host.to_canonical(), port).to_string();
    }
}

/// The machine's address on the interface of its default route. Asked of the kernel by a datagram socket that is told a target, reserved for
/// documents, and sends nothing.
fn default_route(v6: bool) -> Option<IpAddr> {
    let local = |any: IpAddr, far: IpAddr| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
    };
    let v4 = || local(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    v4().or_else(|| if v6 { local(Ipv6Addr::UNSPECIFIED.into(), far.into()) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(advertised: &str) -> Listen {
        Listen { advertised_addr: advertised.to_owned(), ..Listen::on("0.0.0.0:30012") }
    }

    #[test]
    fn what_is_configured_counts_then_what_is_bound_then_the_default_route() {
        let route = |_| Some(IpAddr::from([10, 0, 0, 7]));
        for (configured, bound, expected) in [
            ("edge.example:443", "0.0.0.0:30012", "edge.example:443"),
            ("", "192.168.1.5:30012", "192.168.1.5:30012"),
            ("", "[::ffff:192.168.1.5]:30012", "192.168.1.5:30012"),
            ("", "[2001:db8::5]:1", "[2001:db8::5]:1"),
            ("", "0.0.0.0:30012", "10.0.0.7:30012"),
            ("", "[::]:30012", "10.0.0.7:30012"),
        ] {
            assert_eq!(
                advertised_by(&listen(configured), bound.parse().unwrap(), route),
                expected,
                "{bound}"
            );
        }
    }

    #[test]
    fn without_a_route_the_way_to_atlas_decides() {
        let mut addr = advertised_by(&listen(""), "0.0.0.0:30012".parse().unwrap(), |_| None);
        fill_host(&mut addr, "::ffff:10.0.0.9".parse().unwrap());
        assert_eq!(addr, "10.0.0.9:30012");
        fill_host(&mut addr, [10, 0, 0, 1].into());
        assert_eq!(addr, "10.0.0.9:30012", "known already");
    }
}
