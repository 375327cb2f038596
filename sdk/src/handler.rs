//! Handlers of calls, and the dispatcher that runs them.
//!
//! ```text
//!  session ─ Job ─▶ Dispatcher ─ a slot is free ──▶ task: handler, answer, next job
//!                        │
//!                        ├─ all slots taken ───────▶ waiting (bounded)
//!                        └─ waiting is full ───────▶ `overloaded`
//! ```
//!
//! A session is always read, whatever handlers do: nothing here makes it wait.

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc, thread};

use parking_lot::{Mutex, RwLock};
use tokio::{runtime, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    error::{Error, Result},
    lanes::Lanes,
    presence::Turn,
    reply::Reply,
    request::Request,
    responder::Responder,
};

type Outcome = Pin<Box<dyn Future<Output = Result<Reply>> + Send>>;

/// What a method does.
#[derive(Clone)]
pub(crate) struct Handler(Arc<dyn Fn(Request) -> Outcome + Send + Sync>);

/// The methods that can be called.
#[derive(Debug, Default)]
pub(crate) struct Handlers(RwLock<HashMap<Arc<str>, Handler>>);

/// A call, ready to be run.
pub(crate) struct Job {
    pub(crate) handler: Handler,
    pub(crate) request: Request,
    pub(crate) responder: Responder,
    /// Keeps events about the same edge in order.
    pub(crate) turn: Option<Turn>,
    /// Which gateway it comes from: those wait side by side.
    pub(crate) lane: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    state: Mutex<State>,
    /// Jobs that run at the same time.
    slots: usize,
    tasks: TaskTracker,
    runtime: runtime::Handle,
}

#[derive(Debug)]
struct State {
    running: usize,
    /// When a lane is full the caller is told `overloaded`.
    waiting: Lanes<Job>,
}

/// One of the slots, while its task lives.
struct Slot(Option<Arc<Dispatcher>>);

// === impl Handler ===

impl Handler {
    pub(crate) fn new<F, Fut, R>(handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
        R: Into<Reply>,
    {
        Self(Arc::new(move |request| {
            let outcome = handler(request);
            Box::pin(async move { outcome.await.map(Into::into) })
        }))
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handler")
    }
}

// === impl Handlers ===

impl Handlers {
    /// Adds or replaces; returns what was replaced.
    pub(crate) fn insert(&self, method: &str, handler: Handler) -> Option<Handler> {
        self.0.write().insert(method.into(), handler)
    }

    pub(crate) fn remove(&self, method: &str) -> Option<Handler> {
        self.0.write().remove(method)
    }

    /// The handler of a method, with its name in the form that is kept.
    pub(crate) fn find(&self, method: &str) -> Option<(Arc<str>, Handler)> {
        let handlers = self.0.read();
        handlers.get_key_value(method).map(|(name, handler)| (name.clone(), handler.clone()))
    }

    pub(crate) fn contains(&self, method: &str) -> bool {
        self.0.read().contains_key(method)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.read().keys().map(|name| name.to_string()).collect()
    }

    /// Forgets all, and with them what they hold.
    pub(crate) fn clear(&self) {
        let handlers = std::mem::take(&mut *self.0.write());
        // Handlers may hold handles whose drop calls back: not under the lock.
        drop(handlers);
    }
}

// === impl Job ===

impl Job {
    async fn run(self) {
        let Self { handler, request, responder, turn, lane: _ } = self;
        let outcome = if request.is_cancelled() {
            Err(Error::cancelled())
        } else if request.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            Err(Error::deadline())
        } else {
            (handler.0)(request).await
        };
        // The session may have ended meanwhile; then nobody is there to be told.
        let _ = responder.answer(outcome);
        drop(turn);
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("request", &self.request).finish_non_exhaustive()
    }
}

// === impl Dispatcher ===

impl Dispatcher {
    /// Runs its jobs on the current runtime, `slots` at a time, while up to `backlog` of each lane wait.
    pub(crate) fn new(slots: usize, backlog: usize, tasks: TaskTracker, runtime: runtime::Handle) -> Self {
        let state = Mutex::new(State { running: 0, waiting: Lanes::new(backlog) });
        Self { state, slots: slots.max(1), tasks, runtime }
    }

    /// Runs a job now or later, or refuses it with `overloaded`.
    pub(crate) fn submit(self: &Arc<Self>, job: Job) {
        let refused = {
            let mut state = self.state.lock();
            if state.running < self.slots {
                state.running += 1;
                drop(state);
                return self.spawn(job);
            }
            state.waiting.push(job.lane, job)
        };
        if let Err(job) = refused {
            let _ = job.responder.answer(Err(Error::overloaded("too many calls are waiting for a handler")));
        }
    }

    fn spawn(self: &Arc<Self>, first: Job) {
        let slot = Slot(Some(self.clone()));
        let work = async move {
            let mut job = first;
            loop {
                job.run().await;
                match slot.next() {
                    Some(next) => job = next,
                    None => break,
                }
            }
            slot.release();
        };
        self.tasks.spawn_on(work, &self.runtime);
    }
}

// === impl Slot ===

impl Slot {
    /// The next job for this slot; `None` frees the slot.
    fn next(&self) -> Option<Job> {
        let mut state = self.0.as_ref()?.state.lock();
        let job = state.waiting.pop();
        if job.is_none() {
            state.running -= 1;
        }
        job
    }

    /// The slot was freed.
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(dispatcher) = self.0.take() else { return };
        // The handler panicked (its caller has been told by the responder's drop), or the runtime is going down.
        let next = if thread::panicking() { dispatcher.state.lock().waiting.pop() } else { None };
        match next {
            Some(job) => dispatcher.spawn(job),
            None => dispatcher.state.lock().running -= 1,
        }
    }
}

#[cfg(test)]
mod tests;
