//! The service: echoes, relays, takes notes.

use std::{collections::HashSet, sync::Arc};

use anyhow::Context;
use frontier::{Error, Request, Service, State};
use parking_lot::Mutex;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
};

use crate::{ECHO, NOTED, NOTES, RELAY, WHOAMI, out::say};

/// Notes that are remembered, so that nobody fills the memory.
const MAX_NOTES: usize = 1_000_000;

/// Runs until SIGTERM or Ctrl-C.
pub(crate) async fn run(frontlas: Vec<String>, name: Option<String>) -> anyhow::Result<()> {
    let name = name.or_else(host_name).unwrap_or_else(|| "echo".to_owned());
    let notes = Arc::new(Mutex::new(HashSet::new()));
    let me = name.clone();
    let count = Arc::clone(&notes);
    let service = Service::cluster(frontlas)
        .name("echo")
        .topics([NOTES])
        .method(ECHO, move |request: Request| {
            let answer = format!("{} from {me}", String::from_utf8_lossy(request.body()));
            async move { Ok(answer) }
        })
        .method(NOTED, move |_: Request| {
            let count = count.lock().len();
            async move { Ok(count.to_string()) }
        })
        .connect_in_background()
        .await?;
    let relay = service.clone();
    service
        .register(RELAY, move |request: Request| {
            let service = relay.clone();
            async move { relayed(&service, &request).await }
        })
        .await
        .context("the method is not offered")?;
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut watch = service.watch();
    select! {
        _ = watch.until(State::is_connected) => say(format!("{name} answers")),
        _ = term.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    loop {
        select! {
            message = service.receive() => {
                let Some(message) = message else { break };
                let kept = {
                    let mut notes = notes.lock();
                    let room = notes.len() < MAX_NOTES;
                    if room {
                        notes.insert(message.body().to_vec());
                    }
                    room
                };
                // The publisher hears of the acknowledgement, or tries again.
                drop(if kept { message.done().await } else { message.error("there are too many notes").await });
            }
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    service.close().await;
    Ok(())
}

/// Asks the edge whose ID begins the body.
async fn relayed(service: &Service, request: &Request) -> Result<String, Error> {
    let body = std::str::from_utf8(request.body()).map_err(Error::application)?;
    let (id, text) = body.split_once(' ').unwrap_or((body, ""));
    let id: u64 = id.parse().map_err(Error::application)?;
    let answer = service.call(id, WHOAMI, text.to_owned()).await?;
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}
