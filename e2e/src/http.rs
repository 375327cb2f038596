//! HTTP/1.1 as far as tests ask for metrics, probes and lists: one request per connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Longest time for a whole answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// GET.
///
/// # Errors
/// When there is no complete answer.
pub fn get(addr: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    request(addr, "GET", path, &[], "")
}

/// Any request; `headers` are whole lines without their end.
///
/// # Errors
/// When there is no complete answer.
pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> anyhow::Result<Answer> {
    ask(&mut connect(addr)?, addr, method, path, headers, body)
}

/// GET by TLS from a server with this name.
///
/// # Errors
/// When the handshake fails or there is no complete answer.
pub fn get_tls(
    addr: SocketAddr,
    path: &str,
    client: Arc<ClientConfig>,
    name: &'static str,
) -> anyhow::Result<Answer> {
    let tls = ClientConnection::new(client, name.try_into()?)?;
    ask(&mut StreamOwned::new(tls, connect(addr)?), addr, "GET", path, &[], "")
}

fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let io = TcpStream::connect_timeout(&addr, PATIENCE).context("connect")?;
    io.set_read_timeout(Some(PATIENCE))?;
    Ok(io)
}

fn ask(
    io: &mut (impl Read + Write),
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> anyhow::Result<Answer> {
    let lines: String = headers.iter().flat_map(|line| [*line, "\r\n"]).collect();
    let len = body.len();
    write!(
        io,
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {len}\r\n{lines}\r\n{body}"
    )?;
    let mut text = String::new();
    io.read_to_string(&mut text).context("answer")?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of headers")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_owned() };
    Ok(Answer { status, body })
}

fn unchunk(mut rest: &str) -> anyhow::Result<String> {
    let mut body = String::new();
    loop {
        let (len, after) = rest.split_once("\r\n").context("no chunk length")?;
        let len = usize::from_str_radix(len.trim(), 16).context("chunk length")?;
        if len == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..len).context("short chunk")?);
        rest = after.get(len + 2..).context("short chunk")?;
    }
}

/// The sum of the samples of a metric whose labels contain all of `labels`, such as `reason="rate"`. `None` if there is no sample.
#[must_use]
pub fn sample(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let samples = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
            && labels.iter().all(|label| line.contains(label))
    });
    let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::{sample, unchunk};

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n").unwrap(), "hello!");
        assert!(unchunk("5\r\nhel").is_err());
    }

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let text =
            "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"2\"} 4\na_total_other 9\nb 1.5\n";
        assert_eq!(sample(text, "a_total", &[]), Some(7.0));
        assert_eq!(sample(text, "a_total", &["x=\"1\""]), Some(3.0));
        assert_eq!(sample(text, "b", &[]), Some(1.5));
        assert_eq!(sample(text, "c", &[]), None);
    }
}
