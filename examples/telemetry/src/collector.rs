//! The service: takes readings, prints what they say, and tunes who sends them.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use frontier::{EdgeId, ErrorCode, Message, Service};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    READINGS, SET_INTERVAL,
    out::say,
    reading::{LOAD, METRICS, Reading},
    window::{Span, Summary, Windows},
};

/// How long an edge may take to be tuned.
const TUNING: Duration = Duration::from_secs(3);

/// What to aggregate, and how to tune.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) window: Duration,
    /// Between two tables.
    pub(crate) every: Duration,
    /// The load from which a machine is busy.
    pub(crate) busy: f64,
    /// Between readings of a busy machine.
    pub(crate) fast: Duration,
    /// Between readings of another one.
    pub(crate) slow: Duration,
}

pub(crate) async fn run(gateway: &str, plan: Plan) -> anyhow::Result<()> {
    let service = Service::builder(gateway)
        .name("telemetry")
        .topics([READINGS])
        .connect()
        .await
        .with_context(|| format!("cannot connect to the gateway at {gateway}"))?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    say(format!("collecting; a table every {:?}", plan.every));
    let mut windows = Windows::new(plan.window);
    let mut tuning = JoinSet::new();
    let mut state = service.watch();
    let mut tick = interval(plan.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is due at once, when there is nothing to show.
    tick.tick().await;
    loop {
        select! {
            Some(message) = service.receive() => take(message, &mut windows).await,
            _ = tick.tick() => {
                for (edge, name) in windows.trim(Instant::now()) {
                    say(format!("{name} (edge {edge}) is silent"));
                }
                let summaries = windows.summaries();
                show(&summaries);
                for summary in &summaries {
                    if let Some(wanted) = plan.wanted(summary) {
                        tuning.spawn(tune(service.clone(), summary.edge, summary.last.name.clone(), wanted));
                    }
                }
            }
            Some(_) = tuning.join_next() => {}
            Some(state) = state.changed() => {
                say(format!("gateway: {state}"));
                if state.is_closed() {
                    bail!("the connection to the gateway is over");
                }
            }
            _ = interrupts.recv() => break,
        }
    }
    service.close().await;
    Ok(())
}

async fn take(message: Message, windows: &mut Windows) {
    let outcome = match (message.from().edge(), Reading::decode(message.body())) {
        (Some(edge), Some(reading)) => match windows.put(edge, Instant::now(), reading) {
            true => message.done(),
            false => message.error("too many edges"),
        },
        _ => message.error("this is no reading"),
    };
    // Who is gone by now need not be told.
    drop(outcome.await);
}

fn show(summaries: &[Summary]) {
    say(format!("{:<24} {:<10} {:>10} {:>10} {:>10} {:>9}", "edge", "", "min", "mean", "max", "readings"));
    for summary in summaries {
        let name = format!("{} ({})", summary.last.name, summary.edge);
        for ((_, metric), Span { min, mean, max }) in METRICS.iter().zip(summary.spans) {
            say(format!("{name:<24} {metric:<10} {min:>10.2} {mean:>10.2} {max:>10.2} {:>9}", summary.count));
        }
    }
}

async fn tune(service: Service, edge: EdgeId, name: String, wanted: Duration) {
    let millis = wanted.as_millis().to_string();
    match service.call(edge, SET_INTERVAL, millis.clone()).timeout(TUNING).await {
        Ok(_) => say(format!("{name} (edge {edge}) is now read every {millis} ms")),
        // Its silence will be told.
        Err(error) if error.code() == ErrorCode::EdgeNotOnline => {}
        // The next table tries again.
        Err(error) => say(format!("{name} (edge {edge}) cannot be tuned: {error}")),
    }
}

// === impl Plan ===

impl Plan {
    /// What an edge's interval should become, if that is another one.
    fn wanted(&self, summary: &Summary) -> Option<Duration> {
        let busy = summary.last.values[LOAD] >= self.busy;
        let wanted = if busy { self.fast } else { self.slow };
        Some(wanted).filter(|wanted| *wanted != summary.last.every)
    }
}
