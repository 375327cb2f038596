//! The life of a server process: it runs until a signal, lets its peers go in order, and ends at once at a second signal.

use std::{error::Error, future::Future, io, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// What a process runs.
pub trait Server {
    /// Waits until a part that must run has failed; says which.
    fn failed(&mut self) -> impl Future<Output = String>;

    /// A part that has failed by now, and was not told of before.
    fn failure(&mut self) -> Option<String>;

    /// Lets peers go in order; with `hurry` (a person waits at the terminal) without waiting for load balancers.
    fn drain(&mut self, hurry: bool) -> impl Future<Output = ()>;

    /// Ends what still runs.
    fn stop(&mut self) -> impl Future<Output = ()>;
}

/// Why a process does not end well.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// Signals cannot be heard.
    #[error("signals: {0}")]
    Signals(#[source] io::Error),
    /// It did not start.
    #[error(transparent)]
    Start(Box<dyn Error + Send + Sync>),
    /// A part that must run failed.
    #[error("{0}")]
    Part(String),
}

/// Starts a server and runs it to its end.
///
/// # Errors
/// It did not start, or a part of it failed.
pub async fn live<S: Server, E>(start: impl AsyncFnOnce() -> Result<S, E>) -> Result<ExitCode, LifeError>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let mut terminate = signal(SignalKind::terminate()).map_err(LifeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(LifeError::Signals)?;
    let mut server = start().await.map_err(|error| LifeError::Start(error.into()))?;
    let hurry = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => true,
        failure = server.failed() => return Err(LifeError::Part(failure)),
    };
    info!("stopping; a second signal ends at once");
    let stopped = async {
        server.drain(hurry).await;
        server.stop().await;
    };
    let finished = tokio::select! {
        biased;
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = stopped => true,
    };
    if !finished {
        warn!("second signal");
        // What it would wait for on its way out is what nobody wants to wait for.
        std::mem::forget(server);
    } else if let Some(failure) = server.failure() {
        // The other parts have let their peers go in order; those of this one were lost.
        return Err(LifeError::Part(failure));
    }
    Ok(ExitCode::SUCCESS)
}
