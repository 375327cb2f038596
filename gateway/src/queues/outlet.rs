//! A broker's queue as the core sees it: letters become messages, and what comes of them becomes messages to shards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use frontier_queues::{Done, Kind, Message, MessageId, PublishError, Queue, State};
use frontier_wire::error::ErrorCode;
use tokio::sync::watch;

use super::{stats::Tally, template::Template};
use crate::{
    core::outlet::{Declined, Letter, Outlet},
    driver::Hub,
};

/// What an edge is told whose labels do not make a destination.
const NO_DESTINATION: Declined =
    Declined::Refused(ErrorCode::InvalidArgument, "the edge lacks a label that the destination is made of");

/// See the module documentation.
#[derive(Debug)]
pub(super) struct BrokerOutlet {
    queue: Queue,
    state: watch::Receiver<State>,
    hub: Arc<Hub>,
    template: Template,
    tally: Arc<Tally>,
    /// Bytes of messages taken and not confirmed. The queue knows too, behind a lock that all shards would take for each message.
    held: Arc<AtomicUsize>,
}

// === impl BrokerOutlet ===

impl BrokerOutlet {
    pub(super) fn new(queue: Queue, hub: Arc<Hub>, template: Template, tally: Arc<Tally>) -> Self {
        Self { state: queue.watch(), queue, hub, template, tally, held: Arc::default() }
    }
}

impl Outlet for BrokerOutlet {
    fn offer(&self, letter: Letter<'_>) -> Result<(), Declined> {
        let (at, topic) = self.tally.row(letter.call.name);
        let Ok(destination) = self.template.destination(&topic, letter.card) else {
            return Err(NO_DESTINATION);
        };
        let (mut content_type, mut traceparent, mut headers) = (None, None, Vec::new());
        for (name, value) in letter.call.headers() {
            match name {
                "content-type" => content_type = Some(Arc::from(value)),
                "traceparent" => traceparent = Some(Arc::from(value)),
                _ => headers.push((name.to_owned(), Bytes::copy_from_slice(value.as_bytes()))),
            }
        }
        let started = Instant::now();
        let message = Message {
            id: MessageId::random(),
            edge: letter.card.id,
            topic,
            destination,
            body: letter.body,
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(letter.unix_ms),
            content_type,
            traceparent,
            headers,
            passed: None,
            deadline: started + Duration::from_micros(letter.left),
        };
        let (hub, tally, receipt) = (Arc::clone(&self.hub), Arc::clone(&self.tally), letter.receipt);
        let (held, size) = (Arc::clone(&self.held), receipt.held());
        held.fetch_add(size, Ordering::Relaxed);
        let done = Done::new(move |outcome| {
            held.fetch_sub(size, Ordering::Relaxed);
            tally.record(at, outcome.as_ref().err().map(PublishError::kind), started.elapsed());
            let (shard, msg) = receipt.confirm(outcome.map_err(|error| failed(error.kind())));
            hub.post(shard, msg);
        });
        self.queue.try_publish(message, done).map_err(|error| {
            self.held.fetch_sub(size, Ordering::Relaxed);
            self.tally.record(at, Some(error.kind()), Duration::ZERO);
            refused(error.kind())
        })
    }

    fn is_away(&self) -> bool {
        matches!(*self.state.borrow(), State::Down { .. })
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// What a message comes to that was not taken: nothing was sent.
const fn refused(kind: Kind) -> Declined {
    match kind {
        Kind::Unavailable | Kind::Closed => Declined::Away,
        Kind::Overloaded | Kind::Deadline | Kind::TooLarge | Kind::Rejected | Kind::Denied => failed(kind),
    }
}

/// What a message comes to that was taken: the broker may have it.
const fn failed(kind: Kind) -> Declined {
    let (code, text) = match kind {
        Kind::Overloaded => (ErrorCode::Overloaded, "queue overloaded"),
        Kind::Deadline => (ErrorCode::DeadlineExceeded, "deadline exceeded"),
        Kind::TooLarge => (ErrorCode::PayloadTooLarge, "message longer than the queue takes"),
        Kind::Unavailable => (ErrorCode::SessionClosed, "the broker was lost before it confirmed"),
        Kind::Rejected => (ErrorCode::InvalidArgument, "the broker refused the message"),
        Kind::Denied => (ErrorCode::PermissionDenied, "the broker does not allow this destination"),
        Kind::Closed => (ErrorCode::SessionClosed, "the queue was closed before it confirmed"),
    };
    Declined::Refused(code, text)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Declined, Kind, failed, refused};

    #[test]
    fn only_what_was_not_sent_may_go_elsewhere() {
        for kind in Kind::ALL {
            assert_ne!(failed(kind), Declined::Away, "{kind}: the broker may have it");
            let away = matches!(kind, Kind::Unavailable | Kind::Closed);
            assert_eq!(refused(kind) == Declined::Away, away, "{kind}");
        }
        let texts: HashSet<String> = Kind::ALL.map(|kind| format!("{:?}", failed(kind))).into();
        assert_eq!(texts.len(), Kind::ALL.len(), "each has words of its own");
    }
}
