//! Request and reply through nats-server: clients of `async-nats`, and one more that answers.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use anyhow::{Context as _, Result, bail};
use async_nats::{Client, ConnectOptions};
use clap::Args;
use futures::StreamExt as _;

use crate::{
    sample::Sample,
    tasks::{Running, Tasks, TasksArgs},
};

/// The subject that is answered.
const SUBJECT: &str = "bench.echo";

/// Arguments of the request load.
#[derive(Args, Clone, Debug)]
pub struct NatsArgs {
    /// Where nats-server listens.
    #[arg(long)]
    pub server: SocketAddr,
    /// How much.
    #[command(flatten)]
    pub tasks: TasksArgs,
}

/// Runs the load.
///
/// # Errors
/// If the server cannot be reached, or a request fails or is answered wrongly.
pub fn run(args: &NatsArgs) -> Result<Sample> {
    Tasks::run(&args.tasks, |tasks| begin(args, tasks))
}

async fn begin(args: &NatsArgs, tasks: Rc<Tasks>) -> Result<Running> {
    let mut running = Running::new();
    let service = connect(args.server).await?;
    let mut requests = service.subscribe(SUBJECT).await?;
    service.flush().await?;
    running.spawn_local(async move {
        while let Some(request) = requests.next().await {
            let reply = request.reply.context("a request without a reply subject")?;
            service.publish(reply, request.payload).await?;
        }
        bail!("the subscription ended")
    });
    let mut line = 0;
    for _ in 0..args.tasks.clients {
        let client = connect(args.server).await?;
        for _ in 0..args.tasks.in_flight {
            running.spawn_local(ask(client.clone(), line, Rc::clone(&tasks)));
            line += 1;
        }
    }
    Ok(running)
}

async fn connect(server: SocketAddr) -> Result<Client> {
    ConnectOptions::new()
        .request_timeout(Some(Duration::from_secs(10)))
        .connect(server.to_string())
        .await
        .with_context(|| format!("connect to nats-server at {server}"))
}

/// One request after the other.
async fn ask(client: Client, line: u64, tasks: Rc<Tasks>) -> Result<()> {
    for number in 0.. {
        let (due, body) = tasks.next(line, number).await?;
        let answer = client.request(SUBJECT, body).await?.payload;
        tasks.check(line, number, &answer)?;
        tasks.done(due);
    }
    Ok(())
}
