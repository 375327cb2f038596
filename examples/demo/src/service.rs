//! The service of the demo.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::digest::{self, SHA256};
use frontier::{Error, Request, Service};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::out::say;

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls_up: AtomicU64,
    pub(crate) calls_down: AtomicU64,
    pub(crate) readings: AtomicU64,
    pub(crate) file_bytes: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) mistakes: AtomicU64,
}

/// Connects and starts everything the service does.
pub(crate) async fn start(
    address: &str,
    counters: Arc<Counters>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Service> {
    let service =
        Service::builder(address).name("demo").topics(["readings"]).connect().await.context("service")?;
    service
        .on_edge_online(|edge| async move {
            say(format!(
                "  service: edge {} is online ({})",
                edge.id(),
                String::from_utf8_lossy(edge.meta())
            ));
            Ok(())
        })
        .await?;
    let calls = Arc::clone(&counters);
    service
        .register("count-words", move |request: Request| {
            calls.calls_up.fetch_add(1, Ordering::Relaxed);
            async move {
                let text = std::str::from_utf8(request.body()).map_err(Error::application)?;
                Ok(text.split_whitespace().count().to_string())
            }
        })
        .await?;
    tasks.spawn(take_readings(service.clone(), Arc::clone(&counters)));
    tasks.spawn(take_files(service.clone(), Arc::clone(&counters)));
    tasks.spawn(ask_edges(service.clone(), counters));
    Ok(service)
}

async fn take_readings(service: Service, counters: Arc<Counters>) {
    while let Some(message) = service.receive().await {
        let sound = std::str::from_utf8(message.body()).is_ok_and(|text| text.contains("load="));
        counters.mistakes.fetch_add(u64::from(!sound), Ordering::Relaxed);
        counters.readings.fetch_add(1, Ordering::Relaxed);
        // The edge's publish is done when this is.
        drop(message.done().await);
    }
}

async fn take_files(service: Service, counters: Arc<Counters>) {
    let mut streams = JoinSet::new();
    while let Some(mut stream) = service.accept_stream().await {
        let counters = Arc::clone(&counters);
        streams.spawn(async move {
            let mut context = digest::Context::new(&SHA256);
            while let Ok(Some(bytes)) = stream.read_bytes().await {
                context.update(&bytes);
                counters.file_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            // The edge has half-closed; the digest goes the other way.
            if stream.write_all(context.finish().as_ref()).await.is_err() || stream.shutdown().await.is_err()
            {
                counters.mistakes.fetch_add(1, Ordering::Relaxed);
            }
        });
        while streams.try_join_next().is_some() {}
    }
}

/// Calls every edge that is online, again and again.
async fn ask_edges(service: Service, counters: Arc<Counters>) {
    loop {
        for edge in service.presence().await.unwrap_or_default() {
            match service.call(edge.id(), "uptime", "").await {
                Ok(reply) if !reply.body().is_empty() => {
                    counters.calls_down.fetch_add(1, Ordering::Relaxed);
                }
                // It may have gone between question and call.
                Ok(_) | Err(_) => {}
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
}
