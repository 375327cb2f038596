//! Ports for servers that tests start as processes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as Name, UnixDatagram},
    },
    sync::atomic::{AtomicU32, Ordering},
};

use parking_lot::Mutex;

/// Below what the kernel hands out by itself (from 32,768 on), and below node ports of Kubernetes (from 30,000 on).
const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

/// Names which say to other processes that a port is taken; they go with this process.
static HELD: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// A port of loopback that nobody listens on, and that no other caller gets while this process lives.
///
/// A port that the kernel chose would be free again for anybody's socket while a server that had it is killed and started
/// again, and whoever waits for the server would meet a stranger.
///
/// # Errors
///
/// When all are taken.
pub fn free_port() -> io::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes begin at different ports, so that they seldom meet.
    let start = std::process::id().wrapping_mul(1_013);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let Ok(port) = u16::try_from(FIRST + offset) else { continue };
        let name = Name::from_abstract_name(format!("frontier-test-port-{port}"))?;
        let Ok(held) = UnixDatagram::bind_addr(&name) else { continue };
        // Every address: what listens on one of them would be in the way.
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            HELD.lock().push(held);
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free for a test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_a_port_twice() {
        let ports: std::collections::HashSet<SocketAddr> = (0..100).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 100);
        for addr in ports {
            assert!((10_000..30_000).contains(&addr.port()));
            // The name is held, so that other processes see it.
            let name = Name::from_abstract_name(format!("frontier-test-port-{}", addr.port())).unwrap();
            assert!(UnixDatagram::bind_addr(&name).is_err());
            assert!(TcpListener::bind(addr).is_ok());
        }
    }
}
