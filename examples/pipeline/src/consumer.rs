//! A consumer that knows nothing of Frontier: a subscriber of Redis, in the few lines that its protocol takes.

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Longest value that is read.
const LONGEST: usize = 1 << 20;

/// See the module documentation.
pub(crate) struct Consumer(BufReader<TcpStream>);

// === impl Consumer ===

impl Consumer {
    /// Subscribes to all channels of a pattern.
    pub(crate) async fn subscribe(port: u16, pattern: &str) -> anyhow::Result<Self> {
        let mut io = TcpStream::connect(("127.0.0.1", port)).await.context("Redis")?;
        let len = pattern.len();
        io.write_all(format!("*2\r\n$10\r\nPSUBSCRIBE\r\n${len}\r\n{pattern}\r\n").as_bytes()).await?;
        let mut consumer = Self(BufReader::new(io));
        ensure!(consumer.array().await?.first().is_some_and(|kind| kind == "psubscribe"), "not subscribed");
        Ok(consumer)
    }

    /// The next message: its channel and its body.
    pub(crate) async fn next(&mut self) -> anyhow::Result<(String, String)> {
        loop {
            if let [kind, _, channel, body] = self.array().await?.as_slice()
                && kind == "pmessage"
            {
                return Ok((channel.clone(), body.clone()));
            }
        }
    }

    async fn array(&mut self) -> anyhow::Result<Vec<String>> {
        let count: usize = self.line().await?.strip_prefix('*').context("an array")?.parse()?;
        ensure!(count <= 8, "{count} values");
        let mut values = Vec::new();
        for _ in 0..count {
            let head = self.line().await?;
            let Some(len) = head.strip_prefix('$') else {
                // A number.
                values.push(head);
                continue;
            };
            let len: usize = len.parse()?;
            ensure!(len <= LONGEST, "a value of {len} bytes");
            let mut value = vec![0; len + 2];
            self.0.read_exact(&mut value).await?;
            value.truncate(len);
            values.push(String::from_utf8(value)?);
        }
        Ok(values)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line).await? > 0, "Redis has gone");
        Ok(line.trim_end().to_owned())
    }
}
