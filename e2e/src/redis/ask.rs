//! Asking a Redis: one command per connection, the answer as text.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Context;

/// For a whole answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server answers to one command, whose words may hold any bytes: the lines of a list one below the other, nothing for null.
///
/// # Errors
/// When there is no answer, or it is an error.
pub fn ask(addr: SocketAddr, words: &[&[u8]]) -> anyhow::Result<String> {
    let io = TcpStream::connect_timeout(&addr, PATIENCE)?;
    io.set_read_timeout(Some(PATIENCE))?;
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        write!(request, "${}\r\n", word.len())?;
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
    (&io).write_all(&request)?;
    let mut lines = Vec::new();
    read(&mut BufReader::new(io), &mut lines)?;
    Ok(lines.join("\n"))
}

/// The same for a command in plain words.
///
/// # Errors
/// As [`ask`].
pub fn tell(addr: SocketAddr, command: &str) -> anyhow::Result<String> {
    ask(addr, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>()).with_context(|| command.to_owned())
}

fn read(io: &mut impl BufRead, lines: &mut Vec<String>) -> anyhow::Result<()> {
    let mut line = String::new();
    io.read_line(&mut line)?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).context("the server hung up")?;
    match kind {
        "+" | ":" => lines.push(rest.to_owned()),
        "-" => anyhow::bail!("{rest}"),
        "$" => {
            let Ok(len) = rest.parse::<usize>() else { return Ok(()) };
            let mut bytes = vec![0; len + 2];
            io.read_exact(&mut bytes)?;
            bytes.truncate(len);
            lines.push(String::from_utf8_lossy(&bytes).into_owned());
        }
        "*" => {
            for _ in 0..rest.parse::<usize>().unwrap_or(0) {
                read(io, lines)?;
            }
        }
        _ => anyhow::bail!("no answer of Redis: {line}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::read;

    fn answer(mut text: &[u8]) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        read(&mut text, &mut lines)?;
        Ok(lines)
    }

    #[test]
    fn answers_become_lines() -> anyhow::Result<()> {
        assert_eq!(answer(b"+OK\r\n")?, ["OK"]);
        assert_eq!(answer(b"*3\r\n$2\r\na\n\r\n:7\r\n*1\r\n$-1\r\n")?, ["a\n", "7"]);
        assert_eq!(answer(b"-NOAUTH no\r\n").unwrap_err().to_string(), "NOAUTH no");
        assert!(answer(b"").is_err());
        Ok(())
    }
}
