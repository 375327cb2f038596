//! The edge: calls the service once, and answers who asks.

use std::path::PathBuf;

use frontier::{Edge, Request, TlsOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::{ECHO, WHOAMI, out::say};

/// Says the text and prints the answer; with `stay` it waits for Ctrl-C then.
pub(crate) async fn run(
    gateway: Vec<String>,
    ca: Option<PathBuf>,
    name: String,
    text: String,
    stay: bool,
) -> anyhow::Result<()> {
    // Before anybody sees that it is here: a signal that comes earlier is not lost.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut builder = Edge::builder(gateway).meta(name.clone()).method(WHOAMI, move |request: Request| {
        let answer = format!("{name} heard {}", String::from_utf8_lossy(request.body()));
        async move { Ok(answer) }
    });
    if let Some(ca) = ca {
        builder = builder.tls(TlsOptions::new().roots_file(ca));
    }
    let greet = async {
        let edge = builder.connect().await?;
        let answer = edge.call(ECHO, text).await?;
        anyhow::Ok((edge, answer))
    };
    let (edge, answer) = tokio::select! {
        greeted = greet => greeted?,
        _ = interrupt.recv() => anyhow::bail!("interrupted before there was an answer"),
    };
    say(format!("{} (edge {})", String::from_utf8_lossy(answer.body()), edge.id()));
    if stay {
        interrupt.recv().await;
    }
    edge.close().await;
    Ok(())
}
