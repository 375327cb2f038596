//! From the configuration file's words to the numbers of the core, of TLS handshakes and of pipes.

use std::time::Duration;

use crate::{
    bypass::BypassSettings,
    config::{Config, Entrance, HashBy, Protocol},
    core::{Protocols, Settings, exchange::Policy},
    tls::handshake::HandshakeSettings,
};

/// The services that admit an edge have so many tenths of `limits.handshake`.
const ADMISSION_OF_TEN: u64 = 8;
/// To reach a bypass target.
const CONNECT: Duration = Duration::from_secs(10);

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
        unused_streams: u32::try_from(limits.unused_streams).unwrap_or(u32::MAX),
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
        cluster: config.frontlas.enable,
        ..Settings::default()
    }
}

/// What TLS handshakes run by.
#[must_use]
pub(super) fn handshakes(config: &Config) -> HandshakeSettings {
    let limits = &config.limits;
    HandshakeSettings {
        threads: config.tls_threads().get(),
        at_once: limits.handshakes,
        timeout: limits.handshake,
    }
}

/// What pipes to bypass targets run by.
#[must_use]
pub(super) fn bypass(config: &Config) -> BypassSettings {
    BypassSettings {
        dial: config.edgebound.bypass.clone(),
        at_once: config.limits.pipes,
        idle: config.limits.pipe_idle,
        connect_timeout: CONNECT,
    }
}

fn protocols(listen: &Entrance) -> Protocols {
    let takes = |protocol| listen.protocols.as_ref().is_none_or(|listed| listed.contains(&protocol));
    Protocols { native: takes(Protocol::Native), geminio: takes(Protocol::Geminio) }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{Drain, Sources, known_keys, load};

    /// Every key that says how much or how long, each with a value of its own.
    const FILE: &str = "\
exchange:
  hashby: srcip
limits:
  handshake: 11s
  head: 15KiB
  meta: 14KiB
  body: 3MiB
  sessions: 101
  streams_per_session: 102
  requests_in_flight: 103
  messages_in_flight: 104
  outbox: 1MiB
  registrations: 105
  accept_rate: 106
  stall: 12s
  memory: 64MiB
  handshakes: 107
  unused_streams: 110
  pipes: 108
  pipe_idle: 13s
  heartbeat: 14s
  control_frames: 109
  call_timeout: 15s
  max_call_timeout: 16s
drain:
  accept_for: 2s
  seconds: 17
edgebound:
  edgeid_alloc_when_no_idservice_on: true
  wait_for_id_service: 3s
  listen:
    protocols: [geminio]
tls:
  threads: 18
frontlas: {enable: true, dial: {addrs: ['atlas:40012']}}
";

    fn config() -> Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), FILE).unwrap();
        load(&Sources { file: Some(file.path()), ..Sources::default() }).unwrap().config
    }

    #[test]
    fn the_file_gives_every_key_a_value_that_no_other_has() {
        let lines: Vec<(&str, &str)> = FILE.lines().filter_map(|line| line.trim().split_once(": ")).collect();
        for block in ["limits.", "drain.", "exchange."] {
            for key in known_keys().iter().filter_map(|known| known.path.strip_prefix(block)) {
                assert!(lines.iter().any(|(given, _)| *given == key), "{block}{key} is not in the file");
            }
        }
        let values: BTreeSet<&str> = lines.iter().map(|(_, value)| *value).collect();
        assert_eq!(values.len(), lines.len(), "two keys have the same value");
    }

    #[test]
    fn every_key_gets_where_it_belongs() {
        let config = config();
        // All fields by name: a new one does not compile until somebody says here where it comes from.
        let Settings {
            handshake,
            admission,
            head,
            meta,
            body,
            sessions,
            streams_per_session,
            unused_streams,
            requests_in_flight,
            messages_in_flight,
            outbox,
            registrations,
            accept_rate,
            stall,
            memory,
            newcomers,
            heartbeat,
            control_frames,
            call_timeout,
            max_call_timeout,
            stream_window,
            stream_window_max,
            policy,
            protocols,
            allocate_ids,
            wait_for_id_service,
            cluster,
        } = settings(&config);
        assert_eq!((handshake, admission), (11_000_000, 8_800_000));
        assert_eq!((head, meta, body), (15 << 10, 14 << 10, 3 << 20));
        assert_eq!((sessions, streams_per_session, unused_streams), (101, 102, 110));
        assert_eq!((requests_in_flight, messages_in_flight), (103, 104));
        assert_eq!((outbox, registrations, accept_rate), (1 << 20, 105, 106));
        assert_eq!((stall, heartbeat), (12_000_000, 14_000_000));
        assert_eq!((memory, control_frames, newcomers), (64 << 20, 109, 107));
        assert_eq!((call_timeout, max_call_timeout), (15_000_000, 16_000_000));
        let default = Settings::default();
        assert_eq!(
            (stream_window, stream_window_max),
            (default.stream_window, default.stream_window_max),
            "no key"
        );
        assert_eq!(policy, Policy::SourceIp);
        assert_eq!(protocols, [Protocols { native: false, geminio: true }, Protocols::default()]);
        assert_eq!((allocate_ids, wait_for_id_service), (true, 3_000_000));
        assert!(cluster);
        let HandshakeSettings { threads, at_once, timeout } = handshakes(&config);
        assert_eq!((threads, at_once, timeout), (18, 107, Duration::from_secs(11)));
        let BypassSettings { dial, at_once, idle, connect_timeout } = bypass(&config);
        assert_eq!((at_once, idle, connect_timeout), (108, Duration::from_secs(13), CONNECT));
        assert_eq!(dial, config.edgebound.bypass);
        // The drain goes by the configuration itself.
        let Drain { accept_for, seconds } = config.drain;
        assert_eq!((accept_for, seconds), (Duration::from_secs(2), 17));
    }

    #[test]
    fn every_policy_has_its_own() {
        for (hashby, expected) in [
            (HashBy::EdgeId, Policy::EdgeId),
            (HashBy::SrcIp, Policy::SourceIp),
            (HashBy::Random, Policy::Random),
            (HashBy::LeastInFlight, Policy::LeastInFlight),
        ] {
            let mut config = Config::default();
            config.exchange.hashby = hashby;
            assert_eq!(settings(&config).policy, expected);
        }
    }
}
