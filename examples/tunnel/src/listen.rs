//! The service: takes TCP connections and carries each to the agent's target.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use frontier::{EdgeId, EdgeInfo, Service, Stream};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    META, STREAM,
    carry::{Carried, carry},
    out::say,
    target::Target,
};

/// When no connection can be accepted, such as without a free descriptor: time for others to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections go.
struct Route {
    service: Service,
    edge: String,
    target: Target,
}

pub(crate) async fn run(
    gateway: &str,
    edge: String,
    target: Target,
    listen: SocketAddr,
) -> anyhow::Result<()> {
    let service = Service::builder(gateway)
        .name("tunnel")
        .connect()
        .await
        .with_context(|| format!("cannot connect to the gateway at {gateway}"))?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let route = Arc::new(Route { service: service.clone(), edge, target });
    let mut interrupts = signal(SignalKind::interrupt())?;
    say(format!("{} leads to {} behind edge {}", listener.local_addr()?, route.target, route.edge));
    let cancel = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut state = service.watch();
    loop {
        select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, client)) => drop(connections.spawn(serve(tcp, client, route.clone(), cancel.clone()))),
                Err(error) => {
                    say(format!("cannot accept a connection: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            Some(state) = state.changed() => {
                say(format!("gateway: {state}"));
                if state.is_closed() {
                    bail!("the connection to the gateway is over");
                }
            }
            _ = interrupts.recv() => break,
        }
    }
    cancel.cancel();
    connections.join_all().await;
    service.close().await;
    Ok(())
}

async fn serve(tcp: TcpStream, client: SocketAddr, route: Arc<Route>, cancel: CancellationToken) {
    let opened = cancel.run_until_cancelled(route.open()).await;
    let stream = match opened.unwrap_or_else(|| Err(anyhow!("the tunnel ends"))) {
        Ok(stream) => stream,
        Err(error) => {
            say(format!("{client}: refused: {error:#}"));
            // The client sees a reset, as from a port where nobody listens; nothing else can be told to it.
            drop(tcp.set_zero_linger());
            return;
        }
    };
    say(format!("{client}: connected to {} behind {}", route.target, stream.peer()));
    let mut carried = Carried::default();
    let outcome = carry(tcp, stream, &cancel, &mut carried).await;
    let Carried { sent, received } = carried;
    let how = outcome.map_or_else(|error| format!("reset: {error:#}"), |()| "closed".to_owned());
    say(format!("{client}: {how}; {sent} bytes there, {received} bytes back"));
}

// === impl Route ===

impl Route {
    async fn open(&self) -> anyhow::Result<Stream> {
        let edge = self.find().await?;
        let open = self.service.open_stream(edge).name(STREAM).meta(self.target.to_string());
        Ok(open.await?)
    }

    /// The ID of the edge. An agent that was restarted may have another one, so names are looked up for each connection.
    async fn find(&self) -> anyhow::Result<EdgeId> {
        if let Ok(id) = self.edge.parse::<u64>() {
            return Ok(id.into());
        }
        let online = self.service.presence().await.context("cannot ask who is online")?;
        let agents: Vec<(&str, EdgeId)> =
            online.iter().filter_map(|edge| Some((name(edge)?, edge.id()))).collect();
        let mut found = agents.iter().filter(|(name, _)| *name == self.edge);
        match (found.next(), found.next()) {
            (Some((_, id)), None) => Ok(*id),
            (Some(_), Some(_)) => bail!("several agents are named {}: choose one by its ID", self.edge),
            (None, _) => {
                let names: Vec<String> = agents.iter().map(|(name, id)| format!("{name} ({id})")).collect();
                let here = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                bail!("no agent {} is online; online: {here}", self.edge)
            }
        }
    }
}

/// The name of an agent; `None` for other edges.
fn name(edge: &EdgeInfo) -> Option<&str> {
    std::str::from_utf8(edge.meta()).ok()?.strip_prefix(META)
}
