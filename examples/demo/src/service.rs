//! The service of the demo.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context;
use aws_lc_rs::digest::{self, SHA256};
use frontier::{Error, ErrorCode, Request, Service};
use tokio::{io::AsyncWriteExt, task::JoinSet, time::sleep};

use crate::{counters::Counters, out::say};

/// How the meta of the show's own edges begins.
pub(crate) const META: &str = "demo edge ";
/// Between a mistake and the next try: what is wrong stays wrong for a while, and need not be said a thousand times.
pub(crate) const AFTER_MISTAKE: Duration = Duration::from_millis(200);

/// Connects and starts everything the service does.
pub(crate) async fn start(
    address: &str,
    counters: Arc<Counters>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Service> {
    let service =
        Service::builder(address).name("demo").topics(["readings"]).connect().await.context("service")?;
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
        if !std::str::from_utf8(message.body()).is_ok_and(|text| text.contains("load=")) {
            counters.mistake("the service received a reading that is none");
        }
        counters.readings.fetch_add(1, Ordering::Relaxed);
        // The edge's publish is done when this is.
        if let Err(error) = message.done().await {
            counters.mistake(format!("the service could not acknowledge a reading: {error}"));
        }
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
            // The edge has half-closed; the digest goes the other way. A file cut short has another one, which the edge sees.
            if stream.write_all(context.finish().as_ref()).await.is_err() || stream.shutdown().await.is_err()
            {
                counters.mistake("the service could not say which file it received");
            }
        });
        while streams.try_join_next().is_some() {}
    }
}

/// Calls every edge that is online, again and again.
///
/// It looks who is there instead of asking for events: each of those goes to one service, and it should be one that somebody connects
/// who takes part.
async fn ask_edges(service: Service, counters: Arc<Counters>) {
    let mut known = HashSet::new();
    loop {
        let online = match service.presence().await {
            Ok(online) => online,
            Err(error) => {
                counters.mistake(format!("the service was not told who is online: {error}"));
                sleep(AFTER_MISTAKE).await;
                continue;
            }
        };
        // Edges of others, who may have connected to the show, offer what they like.
        for edge in online.iter().filter(|edge| edge.meta().starts_with(META.as_bytes())) {
            let id = edge.id();
            if known.insert(id) {
                say(format!("  service: edge {id} is online ({})", String::from_utf8_lossy(edge.meta())));
            }
            match service.call(id, "uptime", "").await {
                Ok(reply) if !reply.body().is_empty() => {
                    counters.calls_down.fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) => counters.mistake(format!("edge {id} answered with nothing")),
                // It may have gone between question and call.
                Err(error) if error.code() == ErrorCode::EdgeNotOnline => {}
                Err(error) => {
                    counters.mistake(format!("the service's call of edge {id} failed: {error}"));
                    sleep(AFTER_MISTAKE).await;
                }
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
}
