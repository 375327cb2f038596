//! The kinds of values that keys have, and how each is written: durations, sizes, secrets, addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, Serializer};

/// A number of bytes; written `64KiB`, `16MiB`, `1GB` or as a plain number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

// === impl ByteSize ===

impl ByteSize {
    /// A number of KiB.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// A number of MiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory.
    #[must_use]
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Reads `64KiB`, `64 kib`, `10MB` (powers of 1000), `65536`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" | "k" => 1_000,
            "mb" | "m" => 1_000_000,
            "gb" | "g" => 1_000_000_000,
            "kib" | "ki" => 1 << 10,
            "mib" | "mi" => 1 << 20,
            "gib" | "gi" => 1 << 30,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(factor).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            n if n % (1 << 30) == 0 => write!(f, "{}GiB", n >> 30),
            n if n % (1 << 20) == 0 => write!(f, "{}MiB", n >> 20),
            n if n % (1 << 10) == 0 => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads `30s`, `1m30s`, `1.5h`, `250ms`. A number without a unit is refused: nobody remembers which unit it is.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_alphabetic()).len();
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let part = number.parse::<f64>().ok()? * seconds;
        total = total.checked_add(Duration::try_from_secs_f64(part).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Writes a duration in the largest unit that needs no fraction.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    match duration.as_micros() {
        0 => "0s".to_owned(),
        us if us % 3_600_000_000 == 0 => format!("{}h", us / 3_600_000_000),
        us if us % 60_000_000 == 0 => format!("{}m", us / 60_000_000),
        us if us % 1_000_000 == 0 => format!("{}s", us / 1_000_000),
        us if us % 1_000 == 0 => format!("{}ms", us / 1_000),
        us => format!("{us}us"),
    }
}

/// For `#[serde(serialize_with)]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration_text(*duration))
}

/// Text that must not be printed: `Debug`, `Display` and serialisation show `***`, or nothing where it is empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

// === impl Secret ===

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    const fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "***" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

/// A secret given in the file itself or as the path of a file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// The secret.
    Inline(Secret),
    /// A file with the secret; surrounding white space does not count.
    File(PathBuf),
}

// === impl SecretSource ===

impl SecretSource {
    /// A text that begins with `/`, `./`, `../` or `file:` is a path, anything else the secret itself.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("file:") {
            Some(path) => Self::File(path.into()),
            None if ["/", "./", "../"].iter().any(|prefix| text.starts_with(prefix)) => {
                Self::File(text.into())
            }
            None => Self::Inline(Secret::new(text)),
        }
    }

    /// The secret, from its file if it is in one.
    ///
    /// # Errors
    /// The file cannot be read or is not text.
    pub fn load(&self) -> std::io::Result<Secret> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => Ok(Secret::new(std::fs::read_to_string(path)?.trim())),
        }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Inline(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

impl Serialize for SecretSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Inline(secret) => secret.serialize(serializer),
            Self::File(path) => serializer.collect_str(&format_args!("file:{}", path.display())),
        }
    }
}

/// Where to listen: `host:port`; an empty host or a wildcard means every address of the machine, IPv4 and IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ListenAddr(String);

// === impl ListenAddr ===

impl ListenAddr {
    /// Reads `host:port`, `[v6]:port` or `:port`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        split_host_port(text).map(|_| Self(text.to_owned()))
    }

    /// The text as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same host with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        // `parse` has seen the colon; the whole text is the host of an address without one.
        let host = self.0.rsplit_once(':').map_or(self.0.as_str(), |(host, _)| host);
        Self(format!("{host}:{port}"))
    }

    /// The addresses to try in turn until one can be bound.
    ///
    /// A wildcard gives `[::]` first, which takes IPv4 as well (its peers then appear as `::ffff:a.b.c.d`: show them
    /// by [`canonical`]), and `0.0.0.0` for machines without IPv6. The Go system listens in the same way.
    ///
    /// # Errors
    /// The host name cannot be resolved.
    pub fn candidates(&self) -> std::io::Result<Vec<SocketAddr>> {
        let invalid = |message| std::io::Error::new(std::io::ErrorKind::InvalidInput, message);
        let (host, port) = split_host_port(&self.0).map_err(invalid)?;
        if is_every_address(host) {
            let wildcards = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
            return Ok(wildcards.map(|ip| SocketAddr::new(ip, port)).to_vec());
        }
        Ok((host, port).to_socket_addrs()?.collect())
    }

    /// Whether both cannot be bound, as far as the texts tell: one port, and one host or every address for one of them.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let (Ok((host, port)), Ok((other_host, other_port))) =
            (split_host_port(&self.0), split_host_port(&other.0))
        else {
            return false;
        };
        // Port 0 is a free port, a different one each time.
        port != 0
            && port == other_port
            && (host == other_host || is_every_address(host) || is_every_address(other_host))
    }

    /// Binds a non-blocking listener to the first candidate that can be bound.
    ///
    /// # Errors
    /// None can be bound; the error is that of the first.
    pub fn bind(&self) -> std::io::Result<TcpListener> {
        self.bind_with(|_| Ok(()))
    }

    /// The same, with more settings of the socket: connections inherit them.
    ///
    /// # Errors
    /// None can be bound; the error is that of the first.
    pub fn bind_with(
        &self,
        prepare: impl Fn(&socket2::Socket) -> std::io::Result<()>,
    ) -> std::io::Result<TcpListener> {
        let mut first_error = None;
        for addr in self.candidates()? {
            match bind_one(addr, &prepare) {
                Ok(listener) => return Ok(listener),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| std::io::Error::other("the host name has no address")))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a listener with this host takes connections to every address of the machine.
fn is_every_address(host: &str) -> bool {
    host.is_empty() || host == "0.0.0.0" || host == "::"
}

fn bind_one(
    addr: SocketAddr,
    prepare: impl Fn(&socket2::Socket) -> std::io::Result<()>,
) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    prepare(&socket)?;
    socket.bind(&addr.into())?;
    // Longer than the kernel's usual cap (somaxconn 4096), which then decides.
    socket.listen(65_535)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// An address as people know it: IPv4 carried in IPv6 becomes IPv4 again.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Splits `host:port`; the host may be empty and stands in brackets if it contains colons.
///
/// # Errors
/// What is wrong with the text.
pub fn split_host_port(text: &str) -> Result<(&str, u16), String> {
    let (host, port) =
        text.rsplit_once(':').ok_or_else(|| format!("{text:?} has no port; write host:port"))?;
    let port = port.parse().map_err(|_| format!("{port:?} is not a port (0 to 65535)"))?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host,
        None if host.contains(':') => {
            return Err(format!("write the IPv6 address in brackets: [{host}]:{port}"));
        }
        None => host,
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let ms = Duration::from_millis;
        let cases = [
            ("30s", ms(30_000)),
            ("1m30s", ms(90_000)),
            ("1.5s", ms(1500)),
            ("250ms", ms(250)),
            ("2h", ms(7_200_000)),
            ("0", ms(0)),
            ("0s", ms(0)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Some(expected), "{text}");
            assert_eq!(parse_duration(&duration_text(expected)), Some(expected), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1x", "1s 2s", "1..5s", "99999999999999999999h", "nan", "infs"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_kilo() {
        let cases = [
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("1MB", 1_000_000),
            ("17", 17),
            ("2GiB", 2 << 30),
            ("0", 0),
        ];
        for (text, bytes) in cases {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(bytes)), "{text}");
            assert_eq!(ByteSize::parse(&ByteSize(bytes).to_string()), Some(ByteSize(bytes)), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5MiB", "1TiBB", "99999999999999999999", "18446744073709551615KiB"] {
            assert_eq!(ByteSize::parse(text), None, "{text}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {}", serde_json::to_string(&secret).unwrap()), "*** \"***\"");
        let inline = SecretSource::parse("hunter2");
        assert!(!format!("{inline:?}{}", serde_json::to_string(&inline).unwrap()).contains("hunter2"));
        assert_eq!(inline.load().unwrap().expose(), "hunter2");
        for path in ["/run/x", "./x", "../x", "file:x"] {
            assert!(SecretSource::parse(path).path().is_some(), "{path}");
        }
    }

    #[test]
    fn listen_addresses_are_host_and_port() {
        assert_eq!(split_host_port("10.0.0.1:80"), Ok(("10.0.0.1", 80)));
        assert_eq!(split_host_port("[::1]:80"), Ok(("::1", 80)));
        assert_eq!(split_host_port(":80"), Ok(("", 80)));
        assert_eq!(split_host_port("example.org:65535"), Ok(("example.org", 65_535)));
        for text in ["", "80", "host", "host:", "host:http", "host:65536", "::1:80", "host:-1"] {
            assert!(split_host_port(text).is_err(), "{text}");
        }
        let addr = ListenAddr::parse("[::1]:80").unwrap();
        assert_eq!(addr.with_port(81).as_str(), "[::1]:81");
    }

    #[test]
    fn a_wildcard_takes_ipv4_too() {
        let listener = ListenAddr::parse("0.0.0.0:0").unwrap().bind().unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(canonical(peer), client.local_addr().unwrap());
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let first = ListenAddr::parse("127.0.0.1:0").unwrap().bind().unwrap();
        let taken = ListenAddr::parse(&first.local_addr().unwrap().to_string()).unwrap();
        assert_eq!(taken.bind().unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }
}
