//! What peers may use (`limits`), how the gateway leaves (`drain`), and the memory that is shared out.

use std::{fs, path::Path, time::Duration};

use frontier_ops::config::{ByteSize, Problems, read::Section, serialize_duration};
use serde::Serialize;

/// Streams that Go peers keep for an application that accepts none.
const GO_ACCEPT_QUEUE: usize = 32;

/// `limits`: the bounds that hold whatever peers do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// From accept to Welcome, TLS included. Default 10 s.
    #[serde(serialize_with = "serialize_duration")]
    pub handshake: Duration,
    /// Head of one operation or stream: name, headers and metadata. Default 16 KiB, which is also the most.
    pub head: ByteSize,
    /// Metadata of an edge or a stream. Default 16 KiB.
    pub meta: ByteSize,
    /// Body of one call or message, all fragments together. Default 16 MiB.
    pub body: ByteSize,
    /// Edges and services connected at once. Default 1,000,000.
    pub sessions: usize,
    /// Open streams per session. Default 128; worst case per session: this many stream windows.
    pub streams_per_session: usize,
    /// Streams opened to a geminio session on which its peer has sent nothing yet. Default 32.
    pub unused_streams: usize,
    /// Calls per session without an answer. Default 1024.
    pub requests_in_flight: usize,
    /// Messages per session without an acknowledgement. Default 1024.
    pub messages_in_flight: usize,
    /// Bytes waiting to be written to one session. Default 4 MiB.
    pub outbox: ByteSize,
    /// Connections of other protocols piped to `edgebound.bypass` at once. Default 1024; worst case each: 16 KiB, 80 KiB with TLS.
    pub pipes: usize,
    /// How long no byte may pass through a pipe, in either direction, before it is cut. Default 10 min.
    #[serde(serialize_with = "serialize_duration")]
    pub pipe_idle: Duration,
    /// Methods and topics per session. Default 1024.
    pub registrations: usize,
    /// New sessions per second and gateway; 0 = no limit. Default 10,000.
    pub accept_rate: u32,
    /// How long a peer may read nothing while bytes wait for it, before it is cut. Default 30 s.
    #[serde(serialize_with = "serialize_duration")]
    pub stall: Duration,
    /// Bytes held for all peers together; `None` = [`default_memory`].
    pub memory: Option<ByteSize>,
    /// TLS handshakes running at once, and connections that have not said Hello. Default 1024.
    pub handshakes: usize,
    /// A silent native peer is asked for a sign of life after this long. Default 20 s.
    #[serde(serialize_with = "serialize_duration")]
    pub heartbeat: Duration,
    /// Pings, resets, window updates, cancels, registrations and what means nothing, per second and session. Default 10,000.
    pub control_frames: u32,
    /// Time for the answer of a call, message or stream whose sender names none. Default 30 s.
    #[serde(serialize_with = "serialize_duration")]
    pub call_timeout: Duration,
    /// The longest time that a sender may name; more is shortened to it. Default 1 h; worst case: what is held of an unanswered
    /// operation, some 200 bytes, is held for so long.
    #[serde(serialize_with = "serialize_duration")]
    pub max_call_timeout: Duration,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: ByteSize::kib(16),
            meta: ByteSize::kib(16),
            body: ByteSize::mib(16),
            sessions: 1_000_000,
            streams_per_session: 128,
            unused_streams: 32,
            requests_in_flight: 1024,
            messages_in_flight: 1024,
            outbox: ByteSize::mib(4),
            pipes: 1024,
            pipe_idle: Duration::from_secs(600),
            registrations: 1024,
            accept_rate: 10_000,
            stall: Duration::from_secs(30),
            memory: None,
            handshakes: 1024,
            heartbeat: Duration::from_secs(20),
            control_frames: 10_000,
            call_timeout: Duration::from_secs(30),
            max_call_timeout: Duration::from_secs(3600),
        }
    }
}

impl Limits {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            handshake: section.value("handshake", default.handshake),
            head: section.value("head", default.head),
            meta: section.value("meta", default.meta),
            body: section.value("body", default.body),
            sessions: section.value("sessions", default.sessions),
            streams_per_session: section.value("streams_per_session", default.streams_per_session),
            unused_streams: section.value("unused_streams", default.unused_streams),
            requests_in_flight: section.value("requests_in_flight", default.requests_in_flight),
            messages_in_flight: section.value("messages_in_flight", default.messages_in_flight),
            outbox: section.value("outbox", default.outbox),
            pipes: section.value("pipes", default.pipes),
            pipe_idle: section.value("pipe_idle", default.pipe_idle),
            registrations: section.value("registrations", default.registrations),
            accept_rate: section.value("accept_rate", default.accept_rate),
            stall: section.value("stall", default.stall),
            memory: section.optional("memory"),
            handshakes: section.value("handshakes", default.handshakes),
            heartbeat: section.value("heartbeat", default.heartbeat),
            control_frames: section.value("control_frames", default.control_frames),
            call_timeout: section.value("call_timeout", default.call_timeout),
            max_call_timeout: section.value("max_call_timeout", default.max_call_timeout),
        }
    }

    /// The memory budget in bytes: `limits.memory`, or half of what this machine or container has.
    #[must_use]
    pub fn memory_budget(&self) -> ByteSize {
        self.memory.unwrap_or_else(|| default_memory(Path::new("/")))
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        self.validate_counts(problems);
        self.validate_times(problems);
        self.validate_sizes(problems);
    }

    fn validate_counts(&self, problems: &mut Problems) {
        let counts = [
            ("sessions", self.sessions),
            ("streams_per_session", self.streams_per_session),
            ("unused_streams", self.unused_streams),
            ("requests_in_flight", self.requests_in_flight),
            ("messages_in_flight", self.messages_in_flight),
            ("registrations", self.registrations),
            ("handshakes", self.handshakes),
            ("pipes", self.pipes),
        ];
        for (key, count) in counts {
            // Counts travel as u32 on the wire and index tables of u32.
            range(problems, key, count as u64, 1, u64::from(u32::MAX));
        }
        if self.unused_streams > GO_ACCEPT_QUEUE {
            let message = "more than 32: a Go peer of geminio 1.2.2 or older that accepts no streams stops reading at the 33rd";
            problems.warn("limits.unused_streams", message);
        }
        range(problems, "control_frames", u64::from(self.control_frames), 100, u64::from(u32::MAX));
    }

    fn validate_times(&self, problems: &mut Problems) {
        for (key, time, least) in
            [("handshake", self.handshake, 1), ("stall", self.stall, 1), ("heartbeat", self.heartbeat, 1)]
        {
            if time < Duration::from_secs(least) || time > Duration::from_secs(3600) {
                problems.error(format!("limits.{key}"), "must be between 1s and 1h");
            }
        }
        let day = Duration::from_secs(86_400);
        if self.pipe_idle < Duration::from_secs(1) || self.pipe_idle > day {
            problems.error("limits.pipe_idle", "must be between 1s and 1d");
        }
        if self.max_call_timeout < Duration::from_secs(1) || self.max_call_timeout > day {
            problems.error("limits.max_call_timeout", "must be between 1s and 1d");
        }
        if self.call_timeout < Duration::from_millis(100) || self.call_timeout > day {
            problems.error("limits.call_timeout", "must be between 100ms and 1d");
        } else if self.call_timeout > self.max_call_timeout {
            let message = "must not exceed limits.max_call_timeout";
            problems.error("limits.call_timeout", message);
        }
    }

    fn validate_sizes(&self, problems: &mut Problems) {
        // Every client takes heads of this length; none need take longer ones (docs/protocol.md).
        range(problems, "head", self.head.bytes(), 1024, 16_384);
        range(problems, "meta", self.meta.bytes(), 0, 65_535);
        range(problems, "body", self.body.bytes(), 65_536, 1 << 30);
        range(problems, "outbox", self.outbox.bytes(), 262_144, 1 << 30);
        if self.meta > self.head {
            problems.error(
                "limits.meta",
                format!("must not exceed limits.head ({}): it travels in a head", self.head),
            );
        }
        if self.memory.is_some_and(|memory| memory < ByteSize::mib(16)) {
            problems.error("limits.memory", "must be at least 16MiB");
        }
    }
}

fn range(problems: &mut Problems, key: &str, value: u64, least: u64, most: u64) {
    if !(least..=most).contains(&value) {
        problems.error(format!("limits.{key}"), format!("must be between {least} and {most}, not {value}"));
    }
}

/// `drain`: what happens between SIGTERM and exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// How long new connections are still accepted, for load balancers that have not noticed yet. Default 5 s.
    #[serde(serialize_with = "serialize_duration")]
    pub accept_for: Duration,
    /// Seconds from the signal to the exit. Default 30; `FRONTIER_DRAIN_SECONDS` wins.
    pub seconds: u32,
}

// === impl Drain ===

impl Default for Drain {
    fn default() -> Self {
        Self { accept_for: Duration::from_secs(5), seconds: 30 }
    }
}

impl Drain {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            accept_for: section.value("accept_for", default.accept_for),
            seconds: section.value("seconds", default.seconds),
        }
    }

    /// The time from the signal to the exit.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.seconds > 86_400 {
            problems.error("drain.seconds", "must not exceed 86400 (one day)");
        }
        if self.accept_for > self.total() / 2 {
            let message = format!(
                "longer than half of the drain of {} s, and connections are accepted for no longer than that",
                self.seconds
            );
            problems.warn("drain.accept_for", message);
        }
    }
}

/// Half of the memory limit of the control group below `root` (v2, then v1), else half of the machine's memory,
/// else 1 GiB.
#[must_use]
pub fn default_memory(root: &Path) -> ByteSize {
    let total = machine_memory(root);
    let limit = cgroup_limit(root).filter(|limit| total.is_none_or(|total| *limit < total));
    ByteSize(limit.or(total).map_or(1 << 30, |bytes| bytes / 2))
}

fn machine_memory(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit on the way from this process's group up to the root.
fn cgroup_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut least = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (base, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // Inside a container the group's path may name a place that only the host sees; then the mount's own root
        // is the container's group.
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let limit = fs::read_to_string(root.join(base).join(group).join(file)).ok();
            let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
            least = match (least, limit) {
                (Some(least), Some(limit)) => Some(limit.min(least)),
                (least, limit) => limit.or(least),
            };
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        1024000 kB\nMemFree: 1 kB\n");

    #[test]
    fn memory_is_half_of_the_machine_without_a_limit() {
        for group in ["max\n", "9223372036854771712\n"] {
            let root = root(&[MEMINFO, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", group)]);
            assert_eq!(default_memory(root.path()), ByteSize(1_024_000 * 512));
        }
    }

    #[test]
    fn memory_is_half_of_the_smallest_group_limit() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "2097152\n"),
            ("sys/fs/cgroup/a/b/memory.max", "4194304\n"),
        ]);
        assert_eq!(default_memory(root.path()), ByteSize::mib(1));
    }

    #[test]
    fn memory_knows_version_1_and_paths_of_the_host() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "5:cpu,memory:/kubepods/pod1/x\n4:cpuset:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "8388608\n"),
        ]);
        assert_eq!(default_memory(root.path()), ByteSize::mib(4));
    }

    #[test]
    fn memory_has_a_last_resort() {
        assert_eq!(default_memory(root(&[]).path()), ByteSize(1 << 30));
    }
}
