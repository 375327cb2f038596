//! The numbers of the data plane: what shards tell, and under which names it is scraped.

use frontier_ops::metrics::{Family, Latency};
use frontier_wire::error::ErrorCode;

use crate::core::stats::OpKind;

/// All shards, and what they share.
#[derive(Clone, Debug, Default)]
pub struct DataPlaneSnapshot {
    /// In the order of their index.
    pub shards: Vec<ShardSnapshot>,
    /// Bytes held for peers.
    pub memory_held: u64,
    /// Bytes that may be held for peers (`limits.memory`).
    pub memory_budget: u64,
}

/// What one shard counted since the start, and holds now.
#[derive(Clone, Debug, Default)]
pub struct ShardSnapshot {
    /// Sessions now, by role and protocol.
    pub sessions: Vec<SessionCount>,
    /// Connections taken.
    pub accepts: u64,
    /// Of those, connections of other protocols that are piped on.
    pub piped: u64,
    /// Times that a listener took nothing for a moment.
    pub accept_pauses: u64,
    /// Connections turned away or cut, by reason.
    pub refusals: Vec<(&'static str, u64)>,
    /// Edge sessions replaced by a newer one.
    pub takeovers: u64,
    /// Edge sessions replaced by a newer one at another gateway.
    pub takeovers_elsewhere: u64,
    /// Bytes read from peers.
    pub bytes_in: u64,
    /// Bytes written to peers.
    pub bytes_out: u64,
    /// Bytes waiting to be written now.
    pub outbox_bytes: u64,
    /// Bytes of messages from other shards that wait to be handled now.
    pub inbox_bytes: u64,
    /// Ends of user streams open now; a stream has two.
    pub stream_ends: u64,
    /// Calls, messages and streams.
    pub operations: Vec<OperationSnapshot>,
    /// Answers that nobody waited for any more.
    pub late_answers: u64,
    /// Slots for messages reopened because a peer that reads has acknowledged nothing for long.
    pub reopened_slots: u64,
    /// Streams ended because a slow reader held up all that their writer, a geminio peer, sends.
    pub stalled_streams: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Time that each of them took: how late a frame may have been handled.
    pub turn: Latency,
    /// Panics caught, most of them while a session was handled.
    pub panics: u64,
    /// Sessions cut to keep within the memory budget.
    pub memory_cuts: u64,
}

/// Sessions of one role and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCount {
    /// `edge` or `service`.
    pub role: &'static str,
    /// `native`, `geminio`.
    pub protocol: &'static str,
    /// How many.
    pub count: u64,
}

/// How operations of one kind ended.
#[derive(Clone, Debug)]
pub struct OperationSnapshot {
    /// Which kind.
    pub kind: OpKind,
    /// How many by outcome; `None` = it went well.
    pub outcomes: Vec<(Option<ErrorCode>, u64)>,
    /// From the first frame to the answer.
    pub latency: Latency,
}

/// All of it as metrics.
#[must_use]
pub fn families(snapshot: &DataPlaneSnapshot) -> Vec<Family> {
    let mut families = vec![
        Family::gauge("frontier_memory_held", "Memory held for peers").bytes().row(&[], snapshot.memory_held),
        Family::gauge("frontier_memory_budget", "Memory that may be held for peers")
            .bytes()
            .row(&[], snapshot.memory_budget),
        sessions(&snapshot.shards),
        refusals(&snapshot.shards),
    ];
    families.extend(totals(&snapshot.shards));
    families.extend(per_shard(&snapshot.shards));
    for kind in OpKind::ALL {
        families.extend(operations(kind, &snapshot.shards));
    }
    families
}

fn sessions(shards: &[ShardSnapshot]) -> Family {
    let mut sums: Vec<SessionCount> = Vec::new();
    for count in shards.iter().flat_map(|shard| &shard.sessions) {
        match sums.iter_mut().find(|sum| (sum.role, sum.protocol) == (count.role, count.protocol)) {
            Some(sum) => sum.count += count.count,
            None => sums.push(*count),
        }
    }
    let family = Family::gauge("frontier_sessions", "Edges and services connected");
    sums.iter()
        .fold(family, |family, sum| family.row(&[("role", sum.role), ("protocol", sum.protocol)], sum.count))
}

fn refusals(shards: &[ShardSnapshot]) -> Family {
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for (reason, count) in shards.iter().flat_map(|shard| &shard.refusals) {
        match sums.iter_mut().find(|sum| sum.0 == *reason) {
            Some(sum) => sum.1 += count,
            None => sums.push((*reason, *count)),
        }
    }
    let family = Family::counter("frontier_refusals", "Connections turned away or cut, by reason");
    sums.iter().fold(family, |family, (reason, count)| family.row(&[("reason", *reason)], *count))
}

fn totals(shards: &[ShardSnapshot]) -> Vec<Family> {
    let sum = |field: fn(&ShardSnapshot) -> u64| shards.iter().map(field).sum::<u64>();
    let counter =
        |name, help, field: fn(&ShardSnapshot) -> u64| Family::counter(name, help).row(&[], sum(field));
    vec![
        counter("frontier_accepts", "Connections taken", |shard| shard.accepts),
        counter("frontier_accepts_piped", "Connections of other protocols taken to be piped on", |shard| {
            shard.piped
        }),
        counter("frontier_accept_pauses", "Times that a listener took nothing for a moment", |shard| {
            shard.accept_pauses
        }),
        counter("frontier_takeovers", "Sessions replaced by a newer one", |shard| shard.takeovers),
        counter(
            "frontier_takeovers_elsewhere",
            "Sessions of edges replaced by a newer one at another gateway",
            |shard| shard.takeovers_elsewhere,
        ),
        counter("frontier_late_answers", "Answers that nobody waited for any more", |shard| {
            shard.late_answers
        }),
        counter(
            "frontier_reopened_slots",
            "Slots for messages reopened because a geminio peer has acknowledged nothing for 30 s",
            |shard| shard.reopened_slots,
        ),
        counter(
            "frontier_stalled_streams",
            "Streams ended because a slow reader held up all that their writer, a geminio peer, sends",
            |shard| shard.stalled_streams,
        ),
        counter("frontier_session_panics", "Panics that were caught; one over a session ends it", |shard| {
            shard.panics
        }),
        counter("frontier_memory_cuts", "Sessions cut to keep within the memory budget", |shard| {
            shard.memory_cuts
        }),
        Family::counter("frontier_transferred", "Bytes read from and written to peers")
            .bytes()
            .row(&[("direction", "in")], sum(|shard| shard.bytes_in))
            .row(&[("direction", "out")], sum(|shard| shard.bytes_out)),
        Family::gauge("frontier_stream_ends", "Ends of user streams open now; a stream has two")
            .row(&[], sum(|shard| shard.stream_ends)),
    ]
}

fn per_shard(shards: &[ShardSnapshot]) -> [Family; 4] {
    let outbox = Family::gauge("frontier_outbox", "Bytes waiting to be written to peers").bytes();
    let inbox = Family::gauge("frontier_inbox", "Bytes of messages from other shards that wait").bytes();
    let turns = Family::counter("frontier_shard_turns", "Turns of the loop");
    let times = Family::histogram("frontier_shard_turn", "Time that a turn of the loop took");
    let families = [outbox, inbox, turns, times];
    shards.iter().enumerate().fold(families, |[outbox, inbox, turns, times], (index, shard)| {
        [
            outbox.shard(index, shard.outbox_bytes),
            inbox.shard(index, shard.inbox_bytes),
            turns.shard(index, shard.turns),
            times.shard_times(index, shard.turn.clone()),
        ]
    })
}

fn operations(kind: OpKind, shards: &[ShardSnapshot]) -> [Family; 2] {
    let (mut count, time) = families_of(kind);
    let mut latency = Latency::default();
    let of_kind: Vec<_> = shards
        .iter()
        .flat_map(|shard| &shard.operations)
        .filter(|operation| operation.kind == kind)
        .collect();
    for operation in &of_kind {
        latency.add(&operation.latency);
    }
    for code in std::iter::once(None).chain(ErrorCode::ALL.map(Some)) {
        let outcomes = of_kind.iter().flat_map(|operation| &operation.outcomes);
        let sum = outcomes.filter(|(outcome, _)| *outcome == code).map(|(_, count)| count).sum();
        count = count.row(&[("code", code.map_or("ok", ErrorCode::name))], sum);
    }
    if latency.buckets.is_empty() {
        // A histogram without its last bucket is not well formed.
        latency.buckets.push((f64::INFINITY, 0));
    }
    [count, time.times(latency)]
}

fn families_of(kind: OpKind) -> (Family, Family) {
    let (count, count_help, time, time_help) = match kind {
        OpKind::Call => (
            "frontier_calls",
            "Calls by outcome",
            "frontier_call_duration",
            "Time from the first frame of a call to its answer",
        ),
        OpKind::Message => (
            "frontier_messages",
            "Messages by outcome",
            "frontier_message_duration",
            "Time from the first frame of a message to its acknowledgement",
        ),
        OpKind::Stream => (
            "frontier_streams",
            "Streams opened, by outcome",
            "frontier_stream_open_duration",
            "Time from the opening of a stream to its acceptance or refusal",
        ),
    };
    (Family::counter(count, count_help), Family::histogram(time, time_help))
}

#[cfg(test)]
mod tests;
