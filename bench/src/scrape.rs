//! Reads the gateway's metrics: one request, the text format of Prometheus.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

/// How long a gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read in bytes.
const LONGEST: u64 = 4 << 20;

/// Values by series, labels included as they are written.
///
/// # Errors
/// If there is no answer or not one of success.
pub fn scrape(admin: SocketAddr) -> Result<BTreeMap<String, f64>> {
    let mut socket =
        TcpStream::connect_timeout(&admin, TIMEOUT).with_context(|| format!("metrics at {admin}"))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    write!(socket, "GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.take(LONGEST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer to GET /metrics")?;
    ensure!(head.contains(" 200 "), "GET /metrics: {}", head.lines().next().unwrap_or_default());
    Ok(parse(body))
}

/// Lines that are no series (comments, chunk sizes) are passed over.
fn parse(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (series, value) = line.trim().rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_with_their_labels() {
        let text = "1f3\r\n# HELP x y 3\nfrontier_allocator_bytes{kind=\"active\"} 4096\nfrontier_accepts_total 7\n\
                    broken\nnan_value x\n0\r\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found["frontier_allocator_bytes{kind=\"active\"}"], 4096.0);
        assert_eq!(found["frontier_accepts_total"], 7.0);
    }
}
