//! The edge: reads its machine again and again, and lets a service tell it how often.

use std::time::Duration;

use anyhow::Context;
use frontier::{Edge, Error, ErrorCode, Request};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

use crate::{
    READINGS, SET_INTERVAL,
    machine::Machine,
    out::say,
    reading::{Reading, one_word},
};

/// How often the machine is read until a service says otherwise.
const START: Duration = Duration::from_secs(1);
/// What may be asked for: neither a machine that does nothing but look at itself, nor one that is never heard of.
const BOUNDS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

pub(crate) async fn run(gateway: &str, name: Option<String>) -> anyhow::Result<()> {
    let name = one_word(&name.unwrap_or_else(Machine::name));
    let edge = Edge::builder(gateway)
        .meta(format!("telemetry/{name}"))
        .connect()
        .await
        .with_context(|| format!("cannot connect to the gateway at {gateway}"))?;
    let (set, every) = watch::channel(START);
    edge.register(SET_INTERVAL, move |request: Request| std::future::ready(set_interval(&request, &set)))
        .await?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    say(format!("{name} is edge {}, read every {} ms", edge.id(), START.as_millis()));
    let mut state = edge.watch();
    let follow = async {
        while let Some(state) = state.changed().await {
            say(format!("gateway: {state}"));
        }
    };
    let outcome = select! {
        outcome = publish(&edge, name, every) => outcome,
        () = follow => Ok(()),
        _ = interrupts.recv() => Ok(()),
    };
    edge.close().await;
    outcome
}

fn set_interval(request: &Request, set: &watch::Sender<Duration>) -> frontier::Result<()> {
    let millis = std::str::from_utf8(request.body()).ok().and_then(|text| text.parse().ok());
    let wanted = millis.map(Duration::from_millis).filter(|wanted| BOUNDS.contains(wanted));
    let Some(wanted) = wanted else {
        return Err(Error::new(ErrorCode::InvalidArgument, "an interval has 100 to 60000 ms"));
    };
    say(format!("{} wants a reading every {} ms", request.from(), wanted.as_millis()));
    set.send_replace(wanted);
    Ok(())
}

/// Publishes for ever; an error is that of the machine.
async fn publish(edge: &Edge, name: String, mut every: watch::Receiver<Duration>) -> anyhow::Result<()> {
    let mut machine = Machine::new()?;
    // Said once, not with each reading.
    let mut heard = true;
    loop {
        let interval = *every.borrow_and_update();
        // Ended early by a new interval, which begins at once.
        drop(timeout(interval, every.changed()).await);
        let reading = Reading { name: name.clone(), every: interval, values: machine.read()? };
        let published = edge.publish(READINGS, reading.encode()).await;
        match &published {
            Ok(()) if !heard => say("readings are collected again"),
            Err(error) if heard => say(format!("readings are not collected: {error}")),
            Ok(()) | Err(_) => {}
        }
        heard = published.is_ok();
    }
}
