//! What a seed draws before anything happens: the gateway's limits, the network and how often peers do what.

use frontier_gateway::{
    core::{Settings, exchange::Policy},
    sim::{
        net::Quality,
        rng::Rng,
        stage::{Chaos, Path},
    },
};

const MILLI: u64 = 1_000;
const SECOND: u64 = 1_000_000;

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Edge,
    Service,
    Call,
    Publish,
    Open,
    Write,
    Finish,
    Reset,
    Cancel,
    AbortUpload,
    Names,
    HangUp,
    CutCable,
    GoAway,
    Mood,
    Drain,
    Kick,
    Ask,
    Nonsense,
    Panic,
}

pub(crate) const ACTS: [Act; 20] = [
    Act::Edge,
    Act::Service,
    Act::Call,
    Act::Publish,
    Act::Open,
    Act::Write,
    Act::Finish,
    Act::Reset,
    Act::Cancel,
    Act::AbortUpload,
    Act::Names,
    Act::HangUp,
    Act::CutCable,
    Act::GoAway,
    Act::Mood,
    Act::Drain,
    Act::Kick,
    Act::Ask,
    Act::Nonsense,
    Act::Panic,
];

/// How a receiver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Now,
    Later,
    Never,
    /// Before the body is complete.
    Early,
    /// And once more: the second one comes too late.
    Twice,
}

pub(crate) const ANSWERS: [Answer; 5] =
    [Answer::Now, Answer::Later, Answer::Never, Answer::Early, Answer::Twice];

/// When something is given back: credit of a body, window of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    Now,
    Later,
    Never,
}

pub(crate) const GRANTS: [Grant; 3] = [Grant::Now, Grant::Later, Grant::Never];

/// How a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Eager,
    /// At most so many bytes at a time, with pauses.
    Slow(usize),
    Never,
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub settings: Settings,
    pub shards: u16,
    pub chaos: Chaos,
    /// How often each of [`ACTS`] happens.
    pub acts: [u32; ACTS.len()],
    pub answers: [u32; ANSWERS.len()],
    pub grants: [u32; GRANTS.len()],
    /// Eager, slow, never.
    pub readings: [u32; 3],
    /// Bodies: small, middling, in fragments, more than the credit.
    pub sizes: [u32; 4],
    /// Answers that are errors, of a thousand.
    pub errors: u32,
    /// Bad connections, of a thousand.
    pub bad_paths: u32,
    /// Longest pause between two acts, in microseconds.
    pub pace: u64,
    pub count: u32,
    pub peers: usize,
    /// Of a thousand peers, so many speak geminio.
    pub guests: u32,
    /// Edge IDs wished for: few of them make takeovers.
    pub ids: u64,
    /// A service that is always there, reads at once and is the only one told of edges.
    pub keeper: bool,
    pub queues: usize,
}

// === impl Plan ===

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut acts = [0; ACTS.len()];
        for weight in &mut acts {
            *weight = *rng.pick(&[0, 1, 1, 3, 10]);
        }
        for (act, weight) in ACTS.iter().zip(&mut acts) {
            match act {
                Act::Edge | Act::Service => *weight = (*weight).max(2),
                Act::Call | Act::Publish | Act::Open | Act::Write => *weight = *weight * 5 + 1,
                // Rare, or nobody lives long enough to be interesting.
                Act::Drain | Act::Nonsense | Act::Kick | Act::HangUp | Act::CutCable | Act::GoAway => {
                    *weight /= 3
                }
                Act::Panic => *weight /= 10,
                _ => {}
            }
        }
        let chaos = Chaos {
            lazy_writes: *rng.pick(&[0, 0, 100, 500]),
            short_reads: *rng.pick(&[0, 0, 100, 700]),
            direct_reads: *rng.pick(&[0, 500, 1_000]),
            turn_delay: *rng.pick(&[60, 60, 3_000]),
        };
        Self {
            settings: settings(rng),
            shards: *rng.pick(&[2, 2, 3]),
            chaos,
            acts,
            answers: [
                6,
                *rng.pick(&[0, 3, 10]),
                *rng.pick(&[0, 1, 4]),
                *rng.pick(&[0, 2]),
                *rng.pick(&[0, 1]),
            ],
            grants: [6, *rng.pick(&[0, 2, 8]), *rng.pick(&[0, 1])],
            readings: [10, *rng.pick(&[0, 2, 10]), *rng.pick(&[0, 1, 4])],
            sizes: [20, *rng.pick(&[0, 4]), *rng.pick(&[0, 2, 8]), *rng.pick(&[0, 0, 2])],
            errors: *rng.pick(&[0, 100, 400]),
            bad_paths: *rng.pick(&[0, 300, 900]),
            pace: *rng.pick(&[100, 2_000, 20_000, 100_000]),
            count: *rng.pick(&[20, 60, 120]),
            peers: *rng.pick(&[4, 8, 14, 20]),
            guests: *rng.pick(&[0, 0, 300, 700]),
            ids: *rng.pick(&[1, 3, 8]),
            keeper: rng.chance(500),
            queues: *rng.pick(&[0, 0, 1, 3]),
        }
    }

    /// A network of one connection.
    pub(crate) fn path(&self, rng: &mut Rng) -> Path {
        let mut quality = || {
            if rng.chance(self.bad_paths) {
                Quality {
                    capacity: *rng.pick(&[600, 5_000, 70_000, 300_000]),
                    delay: *rng.pick(&[(0, 0), (50, 500), (1_000, 30_000)]),
                    short_writes: *rng.pick(&[0, 300, 900]),
                }
            } else {
                Quality { delay: (20, 90), ..Quality::PERFECT }
            }
        };
        Path { up: quality(), down: quality() }
    }

    /// Bytes of a body.
    pub(crate) fn size(&self, rng: &mut Rng) -> usize {
        match rng.weighted(&self.sizes) {
            0 => rng.size(0, 200),
            1 => rng.size(10_000, 65_536),
            2 => rng.size(65_537, 250_000),
            _ => rng.size(250_000, 500_000),
        }
    }
}

fn settings(rng: &mut Rng) -> Settings {
    Settings {
        handshake: 3 * SECOND,
        admission: *rng.pick(&[200 * MILLI, 2 * SECOND]),
        body: *rng.pick(&[100_000, 400_000, 16 << 20]),
        streams_per_session: *rng.pick(&[2, 16, 128]),
        requests_in_flight: *rng.pick(&[1, 4, 64, 1_024]),
        messages_in_flight: *rng.pick(&[1, 4, 64, 1_024]),
        outbox: *rng.pick(&[20_000, 200_000, 1 << 20, 4 << 20]),
        registrations: *rng.pick(&[6, 1_024]),
        accept_rate: *rng.pick(&[0, 0, 0, 0, 6]),
        sessions: *rng.pick(&[10, 1_000]),
        stall: *rng.pick(&[SECOND, 5 * SECOND]),
        memory: *rng.pick(&[150_000, 1 << 20, 1 << 30, 1 << 30, 1 << 30]),
        heartbeat: 2 * SECOND,
        control_frames: *rng.pick(&[200, 10_000]),
        call_timeout: *rng.pick(&[300 * MILLI, 3 * SECOND]),
        max_call_timeout: *rng.pick(&[SECOND, 3_600 * SECOND, 3_600 * SECOND]),
        stream_window: *rng.pick(&[4_096, 65_536]),
        stream_window_max: *rng.pick(&[65_536, 300_000]),
        policy: *rng.pick(&[Policy::EdgeId, Policy::SourceIp, Policy::Random, Policy::LeastInFlight]),
        allocate_ids: rng.chance(700),
        wait_for_id_service: *rng.pick(&[0, 0, 300 * MILLI]),
        // The digests of who is here are checked in the end.
        cluster: true,
        ..Settings::default()
    }
}
