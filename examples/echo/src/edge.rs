//! The edge: calls the service once, and answers who asks.

use std::path::PathBuf;

use frontier::{Edge, Request, TlsOptions};

use crate::{ECHO, WHOAMI, out::say};

/// Says the text and prints the answer; with `stay` it waits for Ctrl-C then.
pub(crate) async fn run(
    gateway: Vec<String>,
    ca: Option<PathBuf>,
    name: String,
    text: String,
    stay: bool,
) -> anyhow::Result<()> {
    let mut builder = Edge::builder(gateway).meta(name.clone()).method(WHOAMI, move |request: Request| {
        let answer = format!("{name} heard {}", String::from_utf8_lossy(request.body()));
        async move { Ok(answer) }
    });
    if let Some(ca) = ca {
        builder = builder.tls(TlsOptions::new().roots_file(ca));
    }
    let edge = builder.connect().await?;
    let answer = edge.call(ECHO, text).await?;
    say(format!("{} (edge {})", String::from_utf8_lossy(answer.body()), edge.id()));
    if stay {
        tokio::signal::ctrl_c().await?;
    }
    edge.close().await;
    Ok(())
}
