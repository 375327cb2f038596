//! Redis: `PUBLISH` to channels, or `XADD` to streams.
//!
//! A small client of our own: two commands whose answers come in order are less than what a general client would have to be kept from
//! doing, such as queueing without bound and sending again out of order. RESP2, which every server speaks.

use std::{collections::VecDeque, sync::Arc};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Broker, ConnectError, Kind, Outgoing, PublishError,
    config::{self, Address, Login},
    headers,
    pipeline::{Ending, Pipe, Protocol, Told},
    socket::{self, Socket},
};

/// The field of a stream's entry that holds the body.
pub(crate) const BODY: &str = "body";

/// Longest answer while connecting.
const MAX_GREETING: usize = 4096;

/// See the module documentation.
pub(crate) struct Redis {
    addresses: Vec<Address>,
    login: Login,
    tls: config::ClientTls,
    db: u32,
    stream: Option<u64>,
}

/// What is said on a connection.
pub(crate) struct Resp {
    /// Entries kept in a stream; `None` publishes to channels.
    stream: Option<u64>,
    /// Commands without an answer, in order; `None` is a sign of life that was asked for.
    waiting: VecDeque<Option<u64>>,
}

/// The first thing in a buffer of answers.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Fine,
    Error(String),
}

// === impl Redis ===

impl Redis {
    pub(crate) fn new(config: &config::Redis) -> Self {
        Self {
            addresses: config.addrs.clone(),
            login: config.login.clone(),
            tls: config.tls.clone(),
            db: config.db,
            stream: config.stream.enable.then_some(config.stream.max_len),
        }
    }

    /// A connection on which commands are taken.
    pub(crate) async fn dial(&self, index: usize) -> Result<Socket, ConnectError> {
        let address = &self.addresses[index];
        let stream = socket::dial(address).await?;
        let mut socket: Socket = match self.tls.client(address.secure()).map_err(ConnectError::refused)? {
            Some(tls) => socket::secure(stream, tls, self.tls.name(address.host())).await?,
            None => Box::new(stream),
        };
        self.greet(&mut socket, address).await?;
        Ok(socket)
    }

    async fn greet(&self, socket: &mut Socket, address: &Address) -> Result<(), ConnectError> {
        let (user, password) = match address.login() {
            Some((user, password)) => (user.to_owned(), password.clone()),
            None => self.login.load().map_err(ConnectError::refused)?,
        };
        if !password.expose().is_empty() {
            let mut args: Vec<&[u8]> = vec![b"AUTH"];
            if !user.is_empty() {
                args.push(user.as_bytes());
            }
            args.push(password.expose().as_bytes());
            ask(socket, &args).await?;
        }
        // Checked to be a number before.
        let db = address.path().and_then(|path| path.parse().ok()).unwrap_or(self.db);
        if db != 0 {
            ask(socket, &[b"SELECT", db.to_string().as_bytes()]).await?;
        }
        // A server that wants a password says so here, and one that loads its data too.
        ask(socket, &[b"PING"]).await
    }
}

impl Broker for Redis {
    type Link = Pipe<Resp>;

    fn addresses(&self) -> Vec<Arc<str>> {
        self.addresses.iter().map(Address::shown).collect()
    }

    async fn connect(&mut self, index: usize) -> Result<Pipe<Resp>, ConnectError> {
        let socket = self.dial(index).await?;
        let protocol = Resp { stream: self.stream, waiting: VecDeque::new() };
        Ok(Pipe { socket, input: BytesMut::with_capacity(4096), protocol })
    }
}

/// One command while connecting, and its answer.
async fn ask(socket: &mut Socket, args: &[&[u8]]) -> Result<(), ConnectError> {
    let mut out = BytesMut::new();
    command(args.len(), &mut out);
    for arg in args {
        bulk(arg, &mut out);
    }
    socket.write_all(&out).await.map_err(ConnectError::unreachable)?;
    socket.flush().await.map_err(ConnectError::unreachable)?;
    let mut input = BytesMut::new();
    loop {
        match reply(&mut input).map_err(ConnectError::unreachable)? {
            Some(Reply::Fine) => return Ok(()),
            Some(Reply::Error(text)) if is_unready(&text) => return Err(ConnectError::unreachable(text)),
            Some(Reply::Error(text)) => return Err(ConnectError::refused(text)),
            None if input.len() > MAX_GREETING => {
                return Err(ConnectError::unreachable("no Redis: an answer is too long"));
            }
            None => {}
        }
        if socket.read_buf(&mut input).await.map_err(ConnectError::unreachable)? == 0 {
            return Err(ConnectError::unreachable("the server closed the connection"));
        }
    }
}

// === impl Resp ===

impl Protocol for Resp {
    fn encode(&mut self, outgoing: &Outgoing, out: &mut BytesMut) -> Result<(), PublishError> {
        let message = &outgoing.message;
        let destination = message.destination.as_bytes();
        match self.stream {
            None => {
                command(3, out);
                for arg in [b"PUBLISH", destination, &message.body[..]] {
                    bulk(arg, out);
                }
            }
            Some(max_len) => {
                let bound = max_len.to_string();
                let fields = || headers::each(message).filter(|(name, _)| *name != BODY);
                command(8 + 2 * fields().count(), out);
                for arg in [&b"XADD"[..], destination, b"MAXLEN", b"~", bound.as_bytes(), b"*"] {
                    bulk(arg, out);
                }
                for (name, value) in fields() {
                    bulk(name.as_bytes(), out);
                    bulk(&value, out);
                }
                bulk(BODY.as_bytes(), out);
                bulk(&message.body, out);
            }
        }
        self.waiting.push_back(Some(outgoing.number));
        Ok(())
    }

    fn decode(
        &mut self,
        input: &mut BytesMut,
        _: &mut BytesMut,
        told: &mut Vec<Told>,
    ) -> Result<bool, Ending> {
        let Some(reply) = reply(input).map_err(Ending::of)? else { return Ok(false) };
        let (result, ending) = match reply {
            Reply::Fine => (Ok(()), None),
            // Redis names what it calls a fault of the protocol and hangs up.
            Reply::Error(text) if text.starts_with("ERR Protocol error: invalid bulk length") => {
                let error = PublishError::new(Kind::TooLarge, "the message is longer than Redis takes");
                (Err(error), Some(Ending::answer(text)))
            }
            // Its message stays unconfirmed, and so goes to the next server.
            Reply::Error(text) if is_unready(&text) || text.starts_with("READONLY") => {
                return Err(Ending::of(text));
            }
            Reply::Error(text) => (Err(PublishError::new(kind(&text), text)), None),
        };
        let number =
            self.waiting.pop_front().ok_or_else(|| Ending::of("Redis answered what nobody asked"))?;
        if let Some(number) = number {
            told.push((number, result));
        }
        ending.map_or(Ok(true), Err)
    }

    fn ping(&mut self, out: &mut BytesMut) {
        command(1, out);
        bulk(b"PING", out);
        self.waiting.push_back(None);
    }
}

/// The server will take commands later, or another one does now.
fn is_unready(text: &str) -> bool {
    ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "ERR max number of clients"]
        .iter()
        .any(|word| text.starts_with(word))
}

fn kind(text: &str) -> Kind {
    match text.split(' ').next().unwrap_or_default() {
        "NOPERM" | "NOAUTH" | "WRONGPASS" => Kind::Denied,
        "OOM" | "BUSY" | "NOREPLICAS" | "MISCONF" => Kind::Overloaded,
        _ => Kind::Rejected,
    }
}

pub(crate) fn command(args: usize, out: &mut BytesMut) {
    out.put_slice(format!("*{args}\r\n").as_bytes());
}

pub(crate) fn bulk(arg: &[u8], out: &mut BytesMut) {
    out.reserve(arg.len() + 24);
    out.put_slice(format!("${}\r\n", arg.len()).as_bytes());
    out.put_slice(arg);
    out.put_slice(b"\r\n");
}

/// Takes one answer from the buffer; all that is asked for is answered by a line or a bulk string.
fn reply(input: &mut BytesMut) -> Result<Option<Reply>, String> {
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(&input[..end]).into_owned();
    let mut whole = end + 2;
    let answer = match text.as_bytes().first() {
        Some(b'+' | b':') => Reply::Fine,
        Some(b'-') => Reply::Error(text[1..].to_owned()),
        Some(b'$') => {
            let length: usize =
                text[1..].parse().map_err(|_| "no Redis: a length is not a number".to_owned())?;
            whole = whole
                .checked_add(length)
                .and_then(|sum| sum.checked_add(2))
                .ok_or("no Redis: a length is too long")?;
            Reply::Fine
        }
        _ => return Err("no Redis: an answer of another protocol".to_owned()),
    };
    if input.len() < whole {
        return Ok(None);
    }
    drop(input.split_to(whole));
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_whole() {
        let bytes = b"+OK\r\n:3\r\n$5\r\n1-0\r\n\r\n-ERR no\r\n";
        for cut in 0..bytes.len() {
            let mut input = BytesMut::from(&bytes[..cut]);
            let mut found = Vec::new();
            while let Some(one) = reply(&mut input).unwrap() {
                found.push(one);
            }
            input.put_slice(&bytes[cut..]);
            while let Some(one) = reply(&mut input).unwrap() {
                found.push(one);
            }
            assert_eq!(
                found,
                [Reply::Fine, Reply::Fine, Reply::Fine, Reply::Error("ERR no".to_owned())],
                "{cut}"
            );
            assert!(input.is_empty());
        }
    }

    #[test]
    fn other_protocols_are_no_answers() {
        for bytes in ["HTTP/1.1 400\r\n", "$x\r\n", "$18446744073709551615\r\n", "\r\n", "*1\r\n"] {
            assert!(reply(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
    }
}
