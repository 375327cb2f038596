//! NSQ: `PUB` to nsqd, confirmed by `OK`.
//!
//! A small client of our own: the one there is brings an old TLS library. nsqd answers the commands of a connection one by one, in
//! order. It hangs up after refusing a message, so what can be refused beforehand is.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Broker, ConnectError, Kind, Message, Outgoing, PublishError,
    config::{self, Address},
    headers,
    limit::Limit,
    pipeline::{Ending, Pipe, Protocol, Told},
    socket::{self, Socket},
};

/// What every connection begins with.
const MAGIC: &[u8] = b"  V2";
/// What an envelope begins with: its name and version.
const ENVELOPE: &[u8] = b"FQ\x01";
/// Longest answer: those are words and small documents.
const MAX_FRAME: usize = 64 << 10;

const RESPONSE: u32 = 0;
const ERROR: u32 = 1;

/// See the module documentation.
pub(crate) struct Nsq {
    addresses: Vec<Address>,
    auth: config::AuthSecret,
    tls: config::ClientTls,
    envelope: bool,
    limit: Limit,
}

/// What is said on a connection.
pub(crate) struct V2 {
    envelope: bool,
    limit: Limit,
    /// Messages without an answer, in order.
    waiting: VecDeque<u64>,
}

// === impl Nsq ===

impl Nsq {
    pub(crate) fn new(config: &config::Nsq) -> Self {
        Self {
            addresses: config.addrs.clone(),
            auth: config.auth.clone(),
            tls: config.tls.clone(),
            envelope: config.producer.envelope,
            limit: Limit::new(),
        }
    }
}

impl Broker for Nsq {
    type Link = Pipe<V2>;

    fn addresses(&self) -> Vec<Arc<str>> {
        self.addresses.iter().map(Address::shown).collect()
    }

    async fn connect(&mut self, index: usize) -> Result<Pipe<V2>, ConnectError> {
        let address = &self.addresses[index];
        let mut stream = socket::dial(address).await?;
        let tls = self.tls.client(address.secure()).map_err(ConnectError::refused)?;
        let identity = serde_json::json!({
            "client_id": "frontier",
            "hostname": "frontier",
            "user_agent": concat!("frontier/", env!("CARGO_PKG_VERSION")),
            "feature_negotiation": true,
            "heartbeat_interval": 10_000,
            "tls_v1": tls.is_some(),
        });
        let mut hello = BytesMut::from(MAGIC);
        command("IDENTIFY", identity.to_string().as_bytes(), &mut hello);
        stream.write_all(&hello).await.map_err(ConnectError::unreachable)?;
        let answer = answer(&mut stream).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)
            .map_err(|_| ConnectError::unreachable("no nsqd: its answer to IDENTIFY is not understood"))?;
        let says = |key: &str| answer.get(key).and_then(serde_json::Value::as_bool).unwrap_or_default();
        let mut socket: Socket = match tls {
            Some(_) if !says("tls_v1") => return Err(ConnectError::refused("nsqd does not speak TLS")),
            Some(tls) => {
                let mut socket = socket::secure(stream, tls, self.tls.name(address.host())).await?;
                self::answer(&mut socket).await?;
                socket
            }
            None => Box::new(stream),
        };
        if says("auth_required") {
            let secret = self.auth.secret().map_err(ConnectError::refused)?;
            let mut out = BytesMut::new();
            command("AUTH", secret.expose().as_bytes(), &mut out);
            socket.write_all(&out).await.map_err(ConnectError::unreachable)?;
            socket.flush().await.map_err(ConnectError::unreachable)?;
            self::answer(&mut socket).await?;
        }
        self.limit.connected();
        let protocol = V2 { envelope: self.envelope, limit: self.limit.clone(), waiting: VecDeque::new() };
        Ok(Pipe { socket, input: BytesMut::with_capacity(4096), protocol })
    }
}

/// The answer to a command while connecting.
async fn answer<S: AsyncReadExt + Unpin>(socket: &mut S) -> Result<Vec<u8>, ConnectError> {
    let mut head = [0; 8];
    socket.read_exact(&mut head).await.map_err(ConnectError::unreachable)?;
    let (size, kind) = (&head[..4], &head[4..]);
    let (size, kind) = ((&mut &*size).get_u32() as usize, (&mut &*kind).get_u32());
    if !(4..=MAX_FRAME).contains(&size) {
        return Err(ConnectError::unreachable("no nsqd: an answer has no sensible length"));
    }
    let mut data = vec![0; size - 4];
    socket.read_exact(&mut data).await.map_err(ConnectError::unreachable)?;
    match kind {
        RESPONSE => Ok(data),
        _ => Err(ConnectError::refused(String::from_utf8_lossy(&data))),
    }
}

// === impl V2 ===

impl Protocol for V2 {
    fn encode(&mut self, outgoing: &Outgoing, out: &mut BytesMut) -> Result<(), PublishError> {
        let message = &outgoing.message;
        let topic = &*message.destination;
        if !is_topic(topic) {
            return Err(PublishError::new(Kind::Rejected, "not a name that NSQ takes for a topic"));
        }
        let head = if self.envelope { envelope(message) } else { BytesMut::new() };
        let size = head.len() + message.body.len();
        if size == 0 {
            return Err(PublishError::new(
                Kind::Rejected,
                "NSQ takes no empty message; an envelope makes it one",
            ));
        }
        let wire = u32::try_from(size).ok().filter(|_| size <= self.limit.bytes());
        let wire =
            wire.ok_or_else(|| PublishError::new(Kind::TooLarge, "the message is longer than nsqd takes"))?;
        out.reserve(size + topic.len() + 9);
        for part in [b"PUB ", topic.as_bytes(), b"\n"] {
            out.put_slice(part);
        }
        out.put_u32(wire);
        out.put_slice(&head);
        out.put_slice(&message.body);
        self.waiting.push_back(outgoing.number);
        Ok(())
    }

    fn decode(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        told: &mut Vec<Told>,
    ) -> Result<bool, Ending> {
        let Some(head) = input.first_chunk::<8>() else { return Ok(false) };
        let (mut size, mut kind) = (&head[..4], &head[4..]);
        let (size, kind) = (size.get_u32() as usize, kind.get_u32());
        if !(4..=MAX_FRAME).contains(&size) {
            return Err(Ending::of("nsqd sent something without a sensible length"));
        }
        if input.len() < 4 + size {
            return Ok(false);
        }
        let frame = input.split_to(4 + size);
        let text = String::from_utf8_lossy(&frame[8..]);
        match (kind, &*text) {
            (RESPONSE, "_heartbeat_") => out.put_slice(b"NOP\n"),
            (RESPONSE, "OK") => told.push((self.oldest()?, Ok(()))),
            (ERROR, text) => {
                let number = self.oldest()?;
                let error = self.refusal(text);
                told.push((number, Err(error)));
                // nsqd hangs up after nearly all of them.
                return Err(Ending::answer(text));
            }
            _ => return Err(Ending::of("nsqd sent what a publisher never gets")),
        }
        Ok(true)
    }

    fn ping(&mut self, out: &mut BytesMut) {
        // It has no answer; nsqd sends signs of life by itself.
        out.put_slice(b"NOP\n");
    }
}

impl V2 {
    fn oldest(&mut self) -> Result<u64, Ending> {
        self.waiting.pop_front().ok_or_else(|| Ending::of("nsqd answered what nobody asked"))
    }

    fn refusal(&self, text: &str) -> PublishError {
        let kind = match text.split(' ').next().unwrap_or_default() {
            "E_BAD_MESSAGE" | "E_BAD_BODY" if text.contains("too big") => {
                let limit = text.rsplit(' ').next().and_then(|limit| limit.parse().ok());
                if let Some(limit) = limit {
                    self.limit.learn(limit);
                }
                Kind::TooLarge
            }
            "E_UNAUTHORIZED" | "E_AUTH_FAILED" | "E_AUTH_FIRST" => Kind::Denied,
            "E_PUB_FAILED" => Kind::Unavailable,
            _ => Kind::Rejected,
        };
        PublishError::new(kind, text.to_owned())
    }
}

/// `NAME\n`, the length and the body.
fn command(name: &str, body: &[u8], out: &mut BytesMut) {
    out.put_slice(name.as_bytes());
    out.put_u8(b'\n');
    out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.put_slice(body);
}

/// Names are 1 to 64 letters, digits and `.`, `_`, `-`, and may end in `#ephemeral`.
fn is_topic(name: &str) -> bool {
    let stem = name.strip_suffix("#ephemeral").unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && !stem.is_empty() && stem.bytes().all(plain)
}

/// What stands before the body: `FQ`, a byte 1, the number of headers (2 bytes), and for each the length of its name (2 bytes), the
/// name, the length of its value (4 bytes), the value. Numbers are big-endian.
fn envelope(message: &Message) -> BytesMut {
    let mut out = BytesMut::from(ENVELOPE);
    let count_at = out.len();
    out.put_u16(0);
    let mut count: u16 = 0;
    for (name, value) in headers::each(message) {
        let (Ok(name_len), Ok(value_len)) = (u16::try_from(name.len()), u32::try_from(value.len())) else {
            continue;
        };
        let Some(next) = count.checked_add(1) else { break };
        count = next;
        out.put_u16(name_len);
        out.put_slice(name.as_bytes());
        out.put_u32(value_len);
        out.put_slice(&value);
    }
    out[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_topics_are_those_of_nsqd() {
        for good in ["a", "a.b-c_D9", "t#ephemeral", &"x".repeat(64)] {
            assert!(is_topic(good), "{good}");
        }
        for bad in ["", "a/b", "a b", "#ephemeral", "t#other", "a\nPUB b", &"x".repeat(65)] {
            assert!(!is_topic(bad), "{bad:?}");
        }
    }

    #[test]
    fn hostile_answers_end_the_connection() {
        let limit = Limit::new();
        for bytes in
            [&b"\0\0\0\x03\0\0\0\0"[..], b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\x06\0\0\0\0OK", b"HTTP/1.1"]
        {
            let mut v2 = V2 { envelope: false, limit: limit.clone(), waiting: VecDeque::new() };
            let mut input = BytesMut::from(bytes);
            assert!(v2.decode(&mut input, &mut BytesMut::new(), &mut Vec::new()).is_err(), "{bytes:?}");
        }
    }
}
