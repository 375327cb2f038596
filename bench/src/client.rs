//! The same load as [`crate::load`], through the SDK: what users of the client library get.

use std::{net::SocketAddr, rc::Rc};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use frontier::{Edge, EdgeId, Message, Reply, Request, Service, Stream};

use crate::{
    net, out,
    sample::Sample,
    tasks::{Running, Tasks, TasksArgs},
};

/// What calls are for, what messages are about, and whom streams are opened to.
const METHOD: &str = "bench.echo";
const TOPIC: &str = "bench.topic";
const SERVICE: &str = "bench";

/// Commands of `frontier-bench client`; each prints one line of JSON.
#[derive(Subcommand, Clone, Debug)]
pub enum ClientCommand {
    /// Calls from edges, answered with what they were sent.
    Call(ClientArgs),
    /// Messages, acknowledged by their receiver.
    Publish {
        /// From the service to the edges.
        #[arg(long)]
        down: bool,
        /// Between whom and how much.
        #[command(flatten)]
        args: ClientArgs,
    },
    /// One full stream; `--payload` is the size of a write.
    Stream {
        /// From the service to the edge.
        #[arg(long)]
        down: bool,
        /// Between whom and how much.
        #[command(flatten)]
        args: ClientArgs,
    },
}

/// Between whom and how much.
#[derive(Args, Clone, Debug)]
pub struct ClientArgs {
    /// Where edges connect.
    #[arg(long)]
    pub edge: SocketAddr,
    /// Where services connect.
    #[arg(long)]
    pub service: SocketAddr,
    /// How much.
    #[command(flatten)]
    pub tasks: TasksArgs,
}

/// Runs a command and prints its sample.
///
/// # Errors
/// If the run failed; nothing is printed then.
pub fn run(command: &ClientCommand) -> Result<()> {
    net::raise_descriptors()?;
    let (ClientCommand::Call(args)
    | ClientCommand::Publish { args, .. }
    | ClientCommand::Stream { args, .. }) = command;
    if let Some(cpu) = args.tasks.pin {
        net::pin(cpu)?;
    }
    let sample = measure(command, args)?;
    out::line(&serde_json::to_string(&sample)?);
    Ok(())
}

/// Runs a command.
///
/// # Errors
/// If somebody cannot connect, or an operation fails or is answered wrongly.
pub fn measure(command: &ClientCommand, args: &ClientArgs) -> Result<Sample> {
    let mut sample = match command {
        ClientCommand::Call(_) => Tasks::run(&args.tasks, |tasks| call(args, tasks)),
        ClientCommand::Publish { down, .. } => Tasks::run(&args.tasks, |tasks| publish(args, *down, tasks)),
        ClientCommand::Stream { down, .. } => Tasks::run(&args.tasks, |tasks| stream(args, *down, tasks)),
    }?;
    sample.set("bytes_per_second", sample.figure("bytes") / sample.seconds.max(1e-9));
    Ok(sample)
}

async fn service(args: &ClientArgs) -> Result<Service> {
    let builder = Service::builder(format!("tcp://{}", args.service)).name(SERVICE).topics([TOPIC]);
    let echo = |request: Request| async move { Ok(Reply::from(request.into_body())) };
    Ok(builder.method(METHOD, echo).connect().await?)
}

async fn edge(args: &ClientArgs) -> Result<Edge> {
    Ok(Edge::builder(format!("tcp://{}", args.edge)).connect().await?)
}

async fn call(args: &ClientArgs, tasks: Rc<Tasks>) -> Result<Running> {
    let mut running = Running::new();
    let service = service(args).await?;
    running.spawn_local(hold(service));
    let mut line = 0;
    for _ in 0..args.tasks.clients {
        let edge = edge(args).await?;
        for _ in 0..args.tasks.in_flight {
            let (edge, tasks) = (edge.clone(), Rc::clone(&tasks));
            running.spawn_local(async move {
                for number in 0.. {
                    let (due, body) = tasks.next(line, number).await?;
                    let answer = edge.call(METHOD, body).await?;
                    tasks.check(line, number, &answer)?;
                    tasks.done(due);
                }
                Ok(())
            });
            line += 1;
        }
    }
    Ok(running)
}

/// A client that only answers: dropping its last handle would close it.
async fn hold(service: Service) -> Result<()> {
    match service.receive().await {
        Some(message) => bail!("a message about {:?}", message.topic()),
        None => bail!("the service was closed"),
    }
}

async fn publish(args: &ClientArgs, down: bool, tasks: Rc<Tasks>) -> Result<Running> {
    let mut running = Running::new();
    let service = service(args).await?;
    let mut line = 0;
    for _ in 0..args.tasks.clients {
        let edge = edge(args).await?;
        let target = down.then(|| edge.id());
        for _ in 0..args.tasks.in_flight {
            let (tasks, edge, service) = (Rc::clone(&tasks), edge.clone(), service.clone());
            running.spawn_local(tell(edge, service, target, line, tasks));
            line += 1;
        }
        if down {
            running.spawn_local(async move {
                while let Some(message) = edge.receive().await {
                    confirm(message).await?;
                }
                bail!("an edge was closed")
            });
        }
    }
    if !down {
        running.spawn_local(async move {
            while let Some(message) = service.receive().await {
                confirm(message).await?;
            }
            bail!("the service was closed")
        });
    }
    Ok(running)
}

/// One message after the other, to an edge or from it.
async fn tell(edge: Edge, service: Service, to: Option<EdgeId>, line: u64, tasks: Rc<Tasks>) -> Result<()> {
    for number in 0.. {
        let (due, body) = tasks.next(line, number).await?;
        match to {
            Some(to) => service.publish(to, body).topic(TOPIC).await?,
            None => edge.publish(TOPIC, body).await?,
        }
        tasks.done(due);
    }
    Ok(())
}

async fn confirm(message: Message) -> Result<()> {
    anyhow::ensure!(message.topic() == TOPIC, "a message about {:?}", message.topic());
    Ok(message.done().await?)
}

async fn stream(args: &ClientArgs, down: bool, tasks: Rc<Tasks>) -> Result<Running> {
    let mut running = Running::new();
    let (service, edge) = (service(args).await?, edge(args).await?);
    let (opened, accepted) = if down {
        tokio::join!(service.open_stream(edge.id()).into_future(), edge.accept_stream())
    } else {
        tokio::join!(edge.open_stream(SERVICE).into_future(), service.accept_stream())
    };
    let (writer, reader) = (opened?, accepted.context("no stream came")?);
    let len = args.tasks.payload;
    running.spawn_local(write(writer, len, Rc::clone(&tasks)));
    running.spawn_local(read(reader, tasks));
    running.spawn_local(async move {
        let _edge = edge;
        hold(service).await
    });
    Ok(running)
}

async fn write(mut stream: Stream, len: usize, tasks: Rc<Tasks>) -> Result<()> {
    let mut at = 0;
    loop {
        stream.write_bytes(tasks.piece_at(at, len)).await?;
        at += len as u64;
    }
}

async fn read(mut stream: Stream, tasks: Rc<Tasks>) -> Result<()> {
    let mut at = 0;
    while let Some(bytes) = stream.read_bytes().await? {
        tasks.check_at(at, &bytes)?;
        at += bytes.len() as u64;
        tasks.arrived(bytes.len());
    }
    bail!("the stream ended")
}
