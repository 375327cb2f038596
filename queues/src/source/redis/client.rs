//! Commands to Redis one after the other, and their answers, of which no more is kept than there is room for.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    redis::{bulk, command},
    socket::Socket,
};

/// Longest line of an answer.
const MAX_LINE: usize = 64 << 10;
/// Deepest list in a list.
const MAX_DEPTH: usize = 8;
/// Most values of one answer: some thousand fields for each entry that is read at once.
const MAX_VALUES: usize = 1 << 20;
/// Bytes read at once.
const READ: usize = 16 << 10;

/// A connection.
pub(super) struct Client {
    socket: Socket,
    input: BytesMut,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Nothing,
    Number(i64),
    Text(Bytes),
    /// Text that was longer than there was room for.
    Cut,
    List(Vec<Self>),
    Error(String),
}

/// What may be kept of an answer.
struct Budget {
    bytes: usize,
    values: usize,
}

// === impl Value ===

impl Value {
    pub(super) fn list(self) -> Vec<Self> {
        if let Self::List(list) = self { list } else { Vec::new() }
    }

    pub(super) fn text(&self) -> Option<&Bytes> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

// === impl Client ===

impl Client {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, input: BytesMut::new() }
    }

    /// Sends a command and waits so long for its answer, of whose texts so many bytes are kept.
    pub(super) async fn call(
        &mut self,
        args: &[&[u8]],
        bytes: usize,
        patience: Duration,
    ) -> Result<Value, String> {
        let mut out = BytesMut::new();
        command(args.len(), &mut out);
        for arg in args {
            bulk(arg, &mut out);
        }
        let answer = async {
            self.socket.write_all(&out).await.map_err(|error| error.to_string())?;
            self.socket.flush().await.map_err(|error| error.to_string())?;
            let mut budget = Budget { bytes, values: MAX_VALUES };
            self.value(&mut budget, 0).await
        };
        timeout(patience, answer).await.map_err(|_| "the server does not answer".to_owned())?
    }

    fn value<'a>(
        &'a mut self,
        budget: &'a mut Budget,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Value, String>> + Send + 'a>> {
        Box::pin(async move {
            budget.values = budget.values.checked_sub(1).ok_or("an answer has too many parts")?;
            let line = self.line().await?;
            let (kind, rest) = line.split_first().ok_or("no Redis: an empty line")?;
            let rest = String::from_utf8_lossy(rest).into_owned();
            let number = || rest.parse::<i64>().map_err(|_| "no Redis: a length is not a number".to_owned());
            match kind {
                b'+' => Ok(Value::Text(rest.into())),
                b'-' => Ok(Value::Error(rest)),
                b':' => Ok(Value::Number(number()?)),
                b'$' => match usize::try_from(number()?) {
                    Err(_) => Ok(Value::Nothing),
                    Ok(length) => self.bulk(length, budget).await,
                },
                b'*' => {
                    let Ok(count) = usize::try_from(number()?) else { return Ok(Value::Nothing) };
                    if depth >= MAX_DEPTH || count > budget.values {
                        return Err("an answer has too many parts".to_owned());
                    }
                    // It is not believed how many there are until they come.
                    let mut list = Vec::new();
                    for _ in 0..count {
                        list.push(self.value(budget, depth + 1).await?);
                    }
                    Ok(Value::List(list))
                }
                _ => Err("no Redis: an answer of another protocol".to_owned()),
            }
        })
    }

    async fn bulk(&mut self, length: usize, budget: &mut Budget) -> Result<Value, String> {
        let kept = length <= budget.bytes;
        let value = if kept {
            budget.bytes -= length;
            while self.input.len() < length + 2 {
                self.read().await?;
            }
            // A copy: a part of a buffer would keep all of it.
            let text = Bytes::copy_from_slice(&self.input[..length]);
            self.input.advance(length);
            Value::Text(text)
        } else {
            let mut left = length;
            loop {
                let here = left.min(self.input.len());
                self.input.advance(here);
                left -= here;
                if left == 0 {
                    break;
                }
                self.read().await?;
            }
            Value::Cut
        };
        while self.input.len() < 2 {
            self.read().await?;
        }
        if !self.input.starts_with(b"\r\n") {
            return Err("no Redis: a text has no end".to_owned());
        }
        self.input.advance(2);
        Ok(value)
    }

    async fn line(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line = self.input[..end].to_vec();
                self.input.advance(end + 2);
                return Ok(line);
            }
            if self.input.len() > MAX_LINE {
                return Err("no Redis: a line is too long".to_owned());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), String> {
        self.input.reserve(READ);
        match self.socket.read_buf(&mut self.input).await {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(bytes: &'static [u8], keep: usize) -> Result<Value, String> {
        let (here, mut there) = tokio::io::duplex(1 << 20);
        there.write_all(bytes).await.unwrap();
        Client::new(Box::new(here)).call(&[b"X"], keep, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_skipped() {
        let bytes = b"*4\r\n$3\r\nabc\r\n$10\r\n0123456789\r\n*1\r\n:-7\r\n$-1\r\n";
        let text = |text: &'static str| Value::Text(Bytes::from_static(text.as_bytes()));
        let list = |second| {
            Value::List(vec![text("abc"), second, Value::List(vec![Value::Number(-7)]), Value::Nothing])
        };
        assert_eq!(answer(bytes, 13).await, Ok(list(text("0123456789"))));
        assert_eq!(answer(bytes, 12).await, Ok(list(Value::Cut)));
        assert_eq!(answer(b"-ERR no\r\n", 1).await, Ok(Value::Error("ERR no".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn hostile_servers_are_left() {
        for bytes in [
            &b"HTTP/1.1 400\r\n"[..],
            b"$x\r\n",
            b"*9999999999\r\n",
            b"$1\r\nabc",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
            b"*2\r\n:1\r\n",
        ] {
            assert!(answer(bytes, 100).await.is_err(), "{bytes:?}");
        }
    }
}
