//! The edge: dials what it may for those who open streams to it.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use frontier::{Edge, Error, ErrorCode, IncomingStream};
use tokio::{
    net::TcpStream,
    select,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    META, STREAM,
    carry::{Carried, carry},
    out::say,
    target::{Pattern, Target},
};

/// How long dialling a target may take: shorter than a listener waits, so that it hears why.
const DIAL: Duration = Duration::from_secs(10);

pub(crate) async fn run(gateway: &str, name: &str, allow: Vec<Pattern>) -> anyhow::Result<()> {
    let edge = Edge::builder(gateway)
        .meta(format!("{META}{name}"))
        .connect()
        .await
        .with_context(|| format!("cannot connect to the gateway at {gateway}"))?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    say(format!("agent {name} is edge {}", edge.id()));
    let allow: Arc<[Pattern]> = allow.into();
    let cancel = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut state = edge.watch();
    loop {
        select! {
            incoming = edge.next_stream() => match incoming {
                Some(incoming) => drop(connections.spawn(serve(incoming, allow.clone(), cancel.clone()))),
                None => break,
            },
            Some(_) = connections.join_next() => {}
            Some(state) = state.changed() => say(format!("gateway: {state}")),
            _ = interrupts.recv() => break,
        }
    }
    cancel.cancel();
    connections.join_all().await;
    edge.close().await;
    Ok(())
}

/// The opener hears only once the target has answered, so that it can refuse its own client.
async fn serve(incoming: IncomingStream, allow: Arc<[Pattern]>, cancel: CancellationToken) {
    let peer = incoming.peer();
    let (target, tcp) = match cancel.run_until_cancelled(dial(&incoming, &allow)).await {
        Some(Ok(dialled)) => dialled,
        None => return incoming.refuse("the agent ends"),
        Some(Err(error)) => {
            say(format!("{peer}: refused: {}", error.text()));
            return incoming.refuse(error);
        }
    };
    say(format!("{peer}: connected to {target}"));
    let mut carried = Carried::default();
    let outcome = carry(tcp, incoming.accept(), &cancel, &mut carried).await;
    let Carried { sent, received } = carried;
    let how = outcome.map_or_else(|error| format!("reset: {error:#}"), |()| "closed".to_owned());
    say(format!("{peer}: {target} {how}; {received} bytes to it, {sent} bytes from it"));
}

async fn dial(incoming: &IncomingStream, allow: &[Pattern]) -> Result<(Target, TcpStream), Error> {
    let text = std::str::from_utf8(incoming.meta()).unwrap_or_default();
    let target: Target = match text.parse() {
        Ok(target) if incoming.name() == STREAM => target,
        Ok(_) | Err(_) => return Err(Error::new(ErrorCode::InvalidArgument, "no stream of a tunnel")),
    };
    if !allow.iter().any(|pattern| pattern.allows(&target)) {
        let text = format!("the agent may not dial {target}: it is not in its --allow list");
        return Err(Error::new(ErrorCode::PermissionDenied, text));
    }
    let dialled = timeout(DIAL, TcpStream::connect((target.host.as_str(), target.port))).await;
    match dialled {
        Ok(Ok(tcp)) => Ok((target, tcp)),
        Ok(Err(error)) => Err(Error::application(format!("the agent cannot dial {target}: {error}"))),
        Err(_) => Err(Error::application(format!("{target} does not answer the agent within {DIAL:?}"))),
    }
}
