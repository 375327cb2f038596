//! A way to a broker that takes only so many bytes in a second.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// How often bytes are let through.
const TICK: Duration = Duration::from_millis(20);

/// Dropping it cuts all connections.
pub(crate) struct Proxy {
    addr: SocketAddr,
    listener: Option<TcpListener>,
    tasks: JoinSet<()>,
}

// === impl Proxy ===

impl Proxy {
    /// One that listens and takes no connection yet.
    pub(crate) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { addr: listener.local_addr().unwrap(), listener: Some(listener), tasks: JoinSet::new() }
    }

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Leads to a broker from now on; so many bytes in a second go there on each connection. What comes back is not held up.
    pub(crate) fn lead(&mut self, to: SocketAddr, rate: usize) {
        let listener = self.listener.take().unwrap();
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, to, rate));
            }
        });
    }
}

async fn pass(client: TcpStream, to: SocketAddr, rate: usize) {
    let Ok(broker) = TcpStream::connect(to).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let share = rate / 50;
    let mut buffer = vec![0; share];
    let there = async {
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            if to_broker.write_all(&buffer[..count]).await.is_err() {
                break;
            }
            // Its slowness is what is tested.
            sleep(TICK.mul_f64(count as f64 / share as f64)).await;
        }
    };
    let back = tokio::io::copy(&mut from_broker, &mut to_client);
    tokio::select! {
        () = there => {}
        _ = back => {}
    }
}
