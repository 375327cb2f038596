//! From the configuration file's words to the core's numbers.

use std::time::Duration;

use crate::config::{Config, HashBy, Listen, Protocol};
use crate::core::exchange::Policy;
use crate::core::{Protocols, Settings};

/// The services that admit an edge have this part of `limits.handshake`: 8 s of 10.
const ADMISSION_OF_TEN: u64 = 8;

/// What the core runs by.
#[must_use]
pub(super) fn settings(config: &Config) -> Settings {
    let limits = &config.limits;
    let handshake = micros(limits.handshake);
    Settings {
        handshake,
        admission: handshake / 10 * ADMISSION_OF_TEN,
        head: u16::try_from(limits.head.as_len()).unwrap_or(u16::MAX),
        meta: limits.meta.as_len(),
        body: limits.body.as_len() as u64,
        sessions: limits.sessions as u64,
        newcomers: limits.handshakes as u64,
        streams_per_session: u32::try_from(limits.streams_per_session).unwrap_or(u32::MAX),
        requests_in_flight: u32::try_from(limits.requests_in_flight).unwrap_or(u32::MAX),
        messages_in_flight: u32::try_from(limits.messages_in_flight).unwrap_or(u32::MAX),
        outbox: limits.outbox.as_len(),
        registrations: limits.registrations,
        accept_rate: limits.accept_rate,
        stall: micros(limits.stall),
        memory: limits.memory_budget().as_len() as u64,
        heartbeat: micros(limits.heartbeat),
        control_frames: limits.control_frames,
        call_timeout: micros(limits.call_timeout),
        max_call_timeout: micros(limits.max_call_timeout),
        policy: match config.exchange.hashby {
            HashBy::EdgeId => Policy::EdgeId,
            HashBy::SrcIp => Policy::SourceIp,
            HashBy::Random => Policy::Random,
            HashBy::LeastInFlight => Policy::LeastInFlight,
        },
        protocols: [&config.edgebound.listen, &config.servicebound.listen].map(protocols),
        allocate_ids: config.edgebound.edgeid_alloc_when_no_idservice_on,
        wait_for_id_service: micros(config.edgebound.wait_for_id_service),
        ..Settings::default()
    }
}

fn protocols(listen: &Listen) -> Protocols {
    let takes = |protocol| listen.protocols.as_ref().is_none_or(|listed| listed.contains(&protocol));
    Protocols { native: takes(Protocol::Native), geminio: takes(Protocol::Geminio) }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
