//! A Redis of one run.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Between its start and its first answer.
const START: Duration = Duration::from_secs(10);
/// For one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Ends with this value.
pub(super) struct Server {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

// === impl Server ===

impl Server {
    pub(super) fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
            ])
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server is not installed")?;
        let mut server = Self { child, port, _dir: dir };
        let deadline = Instant::now() + START;
        while !server.info("server", "process_id:").is_ok_and(|pid| pid == u64::from(server.child.id())) {
            if Instant::now() > deadline || server.child.try_wait()?.is_some() {
                bail!("redis-server did not come up");
            }
        }
        Ok(server)
    }

    #[cfg(test)]
    pub(super) fn is_installed() -> bool {
        Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok()
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A number out of `INFO`.
    pub(super) fn info(&self, section: &str, field: &str) -> Result<u64> {
        let text = self.command(&format!("INFO {section}"))?;
        let line =
            text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
        Ok(line.trim().parse()?)
    }

    /// How often each command was called since the last reset, but for those that ask or reset that.
    pub(super) fn commands(&self) -> Result<Vec<(String, u64)>> {
        parse_commands(&self.command("INFO commandstats")?)
    }

    /// Asks on a connection of its own.
    pub(super) fn command(&self, line: &str) -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        reader.read_line(&mut head)?;
        if let Some(length) = head.strip_prefix('$') {
            let mut body = vec![0; length.trim().parse()?];
            reader.read_exact(&mut body)?;
            return Ok(String::from_utf8(body)?);
        }
        if head.starts_with('-') {
            bail!("Redis answered {head}");
        }
        Ok(head)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse_commands(text: &str) -> Result<Vec<(String, u64)>> {
    let mut commands = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(":calls="))
        else {
            continue;
        };
        if matches!(name, "info" | "config|resetstat") {
            continue;
        }
        let calls = rest.split(',').next().unwrap_or_default().parse().with_context(|| line.to_owned())?;
        commands.push((name.to_owned(), calls));
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_by_command() {
        let text = "# Commandstats\r\ncmdstat_hset:calls=7,usec=12\r\ncmdstat_config|resetstat:calls=1,usec=1\r\ncmdstat_evalsha:calls=40,usec=9\r\n";
        assert_eq!(parse_commands(text).unwrap(), [("hset".to_owned(), 7), ("evalsha".to_owned(), 40)]);
        assert!(parse_commands("cmdstat_x:calls=y,").is_err());
    }
}
