//! NATS: core, confirmed by the server's `PONG` to a `PING` behind the messages, and JetStream, confirmed by the stream.
//!
//! A small client of our own: the usual library's flush ends when bytes are in the socket, and it sends again by itself, in an order
//! of its own. [`handshake`] connects; [`stream`] makes the stream of JetStream be there; here messages flow.

mod handshake;
mod nkey;
mod stream;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use tokio::time::Instant;

use self::handshake::Session;
use crate::{
    Broker, ConnectError, Kind, Message, Outgoing, PublishError,
    config::{self, Address},
    headers,
    pipeline::{Ending, Pipe, Protocol, Told},
};

/// Longest line of a server: its INFO lists a cluster.
const MAX_LINE: usize = 64 << 10;
/// Longest message of a server: acknowledgements and answers of its API.
const MAX_PAYLOAD: usize = 1 << 20;

/// See the module documentation.
pub(crate) struct Nats {
    config: config::Nats,
}

pub(crate) struct Client {
    /// Bytes of headers and body together that the server takes.
    max_payload: usize,
    /// The prefix of subjects that acknowledgements come to; `None` is core NATS.
    inbox: Option<String>,
    /// What was sent and not confirmed.
    waiting: BTreeMap<u64, Waiting>,
    /// The longest that anybody waits for a message.
    timeout: Duration,
    /// Core: the last message before each `PING` without an answer; `None` where nothing was sent since the one before.
    pings: VecDeque<Option<u64>>,
    last: Option<u64>,
}

struct Waiting {
    subject: Arc<str>,
    since: Instant,
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
enum Op {
    Info(Bytes),
    Ping,
    Pong,
    Fine,
    Error(String),
    Message { subject: String, status: Option<u16>, payload: Bytes },
}

// === impl Nats ===

impl Nats {
    pub(crate) fn new(config: &config::Nats) -> Self {
        Self { config: config.clone() }
    }
}

impl Broker for Nats {
    type Link = Pipe<Client>;

    fn addresses(&self) -> Vec<Arc<str>> {
        self.config.addrs.iter().map(Address::shown).collect()
    }

    async fn connect(&mut self, index: usize) -> Result<Pipe<Client>, ConnectError> {
        let mut session = Session::connect(&self.config, &self.config.addrs[index]).await?;
        let mut inbox = None;
        if self.config.jetstream.enable {
            let prefix = format!("_INBOX.{:016x}.", getrandom::u64().unwrap_or_default());
            session.subscribe(&prefix).await?;
            stream::ensure(&mut session, &self.config.jetstream, &prefix).await?;
            inbox = Some(prefix);
        }
        let client = Client {
            max_payload: session.max_payload,
            inbox,
            waiting: BTreeMap::new(),
            timeout: self.config.flow.timeout,
            pings: VecDeque::new(),
            last: None,
        };
        // What came with the last answer of the handshake belongs to what follows.
        Ok(Pipe { socket: session.socket, input: session.input, protocol: client })
    }
}

// === impl Client ===

impl Protocol for Client {
    fn encode(&mut self, outgoing: &Outgoing, out: &mut BytesMut) -> Result<(), PublishError> {
        let message = &outgoing.message;
        let subject = &*message.destination;
        if !is_subject(subject) {
            return Err(PublishError::new(Kind::Rejected, "not a subject that NATS takes"));
        }
        let head = head(message, self.inbox.is_some())?;
        let total = head.len() + message.body.len();
        if total > self.max_payload {
            return Err(PublishError::new(
                Kind::TooLarge,
                "the message is longer than the server's max_payload",
            ));
        }
        let reply =
            self.inbox.as_ref().map(|inbox| format!("{inbox}{} ", outgoing.number)).unwrap_or_default();
        out.reserve(total + subject.len() + reply.len() + 40);
        out.put_slice(format!("HPUB {subject} {reply}{} {total}\r\n", head.len()).as_bytes());
        out.put_slice(&head);
        out.put_slice(&message.body);
        out.put_slice(b"\r\n");
        let waiting = Waiting { subject: Arc::clone(&message.destination), since: Instant::now() };
        self.waiting.insert(outgoing.number, waiting);
        self.last = Some(outgoing.number);
        Ok(())
    }

    fn written(&mut self, out: &mut BytesMut) {
        if self.inbox.is_none() && self.last.is_some() {
            self.ping(out);
        }
    }

    fn decode(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        told: &mut Vec<Told>,
    ) -> Result<bool, Ending> {
        let Some(op) = op(input).map_err(Ending::of)? else { return Ok(false) };
        match op {
            Op::Ping => out.put_slice(b"PONG\r\n"),
            Op::Fine => {}
            Op::Info(json) => self.informed(&json)?,
            Op::Pong => self.ponged(told)?,
            Op::Error(text) => self.refused(text, told)?,
            Op::Message { subject, status, payload } => self.acknowledged(&subject, status, &payload, told),
        }
        Ok(true)
    }

    fn ping(&mut self, out: &mut BytesMut) {
        out.put_slice(b"PING\r\n");
        self.pings.push_back(self.last.take().filter(|_| self.inbox.is_none()));
    }

    fn longest(&self) -> usize {
        MAX_PAYLOAD + MAX_LINE
    }
}

impl Client {
    fn informed(&mut self, json: &[u8]) -> Result<(), Ending> {
        let info: Value = serde_json::from_slice(json).unwrap_or_default();
        if let Some(max) = info.get("max_payload").and_then(Value::as_u64) {
            self.max_payload = usize::try_from(max).unwrap_or(usize::MAX);
        }
        match info.get("ldm").and_then(Value::as_bool) {
            Some(true) => Err(Ending::of("the server is about to stop")),
            _ => Ok(()),
        }
    }

    /// The server has dealt with everything that was sent before.
    fn ponged(&mut self, told: &mut Vec<Told>) -> Result<(), Ending> {
        let upto =
            self.pings.pop_front().ok_or_else(|| Ending::of("the server answered what nobody asked"))?;
        if let Some(upto) = upto {
            let later = self.waiting.split_off(&(upto + 1));
            let confirmed = std::mem::replace(&mut self.waiting, later);
            told.extend(confirmed.into_keys().map(|number| (number, Ok(()))));
        }
        Ok(())
    }

    fn refused(&mut self, text: String, told: &mut Vec<Told>) -> Result<(), Ending> {
        let Some(subject) = text.strip_prefix("Permissions Violation for Publish to ") else {
            return Err(Ending::of(text));
        };
        let subject = subject.trim_matches('"');
        // Core: the error comes before the answer to the PING behind, so what was sent after that is not meant.
        let upto = self.pings.iter().flatten().next().copied().unwrap_or(u64::MAX);
        let meant = self.waiting.range(..=upto).filter(|(_, of)| *of.subject == *subject);
        let meant: Vec<u64> = meant.map(|(number, _)| *number).collect();
        for number in meant {
            self.waiting.remove(&number);
            let error =
                PublishError::new(Kind::Denied, "the server does not allow to publish to this subject");
            told.push((number, Err(error)));
        }
        Ok(())
    }

    fn acknowledged(&mut self, subject: &str, status: Option<u16>, payload: &[u8], told: &mut Vec<Told>) {
        let number = self.inbox.as_ref().and_then(|inbox| subject.strip_prefix(inbox.as_str()));
        let Some(number) = number.and_then(|number| number.parse().ok()) else { return };
        if self.waiting.remove(&number).is_some() {
            told.push((number, verdict(status, payload)));
            self.give_up_before(number, told);
        }
    }

    /// An acknowledgement may be lost, as when the leader of a stream changes. The message left with those before this one, which the
    /// server has answered, and its sender was told in time; so it need not hold a place.
    fn give_up_before(&mut self, answered: u64, told: &mut Vec<Told>) {
        while let Some(oldest) = self.waiting.first_entry()
            && *oldest.key() < answered
            && oldest.get().since.elapsed() >= self.timeout
        {
            let error = PublishError::new(Kind::Deadline, "JetStream did not acknowledge in time");
            told.push((*oldest.key(), Err(error)));
            oldest.remove();
        }
    }
}

/// What an answer of JetStream says about a message.
fn verdict(status: Option<u16>, payload: &[u8]) -> Result<(), PublishError> {
    if status == Some(503) {
        return Err(PublishError::new(
            Kind::Rejected,
            "no stream takes this subject, or JetStream is not ready",
        ));
    }
    let answer: Value = serde_json::from_slice(payload).unwrap_or_default();
    let Some(error) = answer.get("error") else {
        let stored = answer.get("stream").is_some() && answer.get("seq").is_some();
        let error = || PublishError::new(Kind::Unavailable, "JetStream's answer is not understood");
        return if stored { Ok(()) } else { Err(error()) };
    };
    let code = error.get("err_code").and_then(Value::as_u64).unwrap_or_default();
    let text = error.get("description").and_then(Value::as_str).unwrap_or("no description");
    let kind = match code {
        10_054 => Kind::TooLarge,
        // Full (with `discard: new`), out of resources, out of storage.
        10_023 | 10_047 | 10_077 => Kind::Overloaded,
        10_008 | 10_009 | 10_076 => Kind::Unavailable,
        _ => Kind::Rejected,
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    Err(PublishError::new(kind, text))
}

/// The headers of a message, as NATS writes them.
fn head(message: &Message, stored: bool) -> Result<BytesMut, PublishError> {
    let mut head = BytesMut::with_capacity(256);
    head.put_slice(b"NATS/1.0\r\n");
    for (name, value) in headers::each(message) {
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !plain || value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            return Err(PublishError::new(Kind::Rejected, "a header has bytes that NATS does not take"));
        }
        // An application must not steer the server.
        if name.len() >= 5 && name.as_bytes()[..5].eq_ignore_ascii_case(b"nats-") {
            continue;
        }
        head.put_slice(name.as_bytes());
        head.put_slice(b": ");
        head.put_slice(&value);
        head.put_slice(b"\r\n");
    }
    if stored {
        // A resend within the stream's window of duplicates is stored once.
        head.put_slice(format!("Nats-Msg-Id: {}\r\n", message.id).as_bytes());
    }
    head.put_slice(b"\r\n");
    Ok(head)
}

/// A subject that can be published to: tokens without blanks and wildcards. Not the server's own (`$JS.API`, `$SYS`), nor where others wait
/// for answers: with the gateway's rights an edge would govern the server.
fn is_subject(subject: &str) -> bool {
    let first = subject.split('.').next().unwrap_or_default();
    if first.starts_with('$') || first == "_INBOX" {
        return false;
    }
    let plain = |token: &str| {
        !token.is_empty()
            && !token.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>'))
    };
    subject.len() <= 1024 && subject.split('.').all(plain)
}

/// Takes what the server says next off the buffer.
fn op(input: &mut BytesMut) -> Result<Option<Op>, String> {
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else {
        return if input.len() > MAX_LINE { Err("a line is too long".to_owned()) } else { Ok(None) };
    };
    let line = String::from_utf8_lossy(&input[..end]).into_owned();
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((&line, ""));
    let op = match word.to_ascii_uppercase().as_str() {
        "INFO" => Op::Info(Bytes::copy_from_slice(rest.as_bytes())),
        "PING" => Op::Ping,
        "PONG" => Op::Pong,
        "+OK" => Op::Fine,
        "-ERR" => Op::Error(rest.trim().trim_matches('\'').to_owned()),
        "MSG" => return delivery(input, end + 2, rest, false),
        "HMSG" => return delivery(input, end + 2, rest, true),
        _ => return Err("no NATS: a line is not understood".to_owned()),
    };
    drop(input.split_to(end + 2));
    Ok(Some(op))
}

/// `subject sid [reply] [length of headers] length`, and the bytes behind the line.
fn delivery(input: &mut BytesMut, start: usize, line: &str, with_head: bool) -> Result<Option<Op>, String> {
    const WRONG: &str = "no NATS: the head of a message is not understood";
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |word: Option<&&str>| word.and_then(|word| word.parse::<usize>().ok()).ok_or(WRONG);
    let mut back = words.iter().rev();
    let total = number(back.next())?;
    let head = if with_head { number(back.next())? } else { 0 };
    if total > MAX_PAYLOAD || head > total || words.len() < 3 {
        return Err(WRONG.to_owned());
    }
    if input.len() < start + total + 2 {
        return Ok(None);
    }
    let subject = (*words.first().ok_or(WRONG)?).to_owned();
    let whole = input.split_to(start + total + 2).freeze();
    // `NATS/1.0 503`
    let status = String::from_utf8_lossy(&whole[start..start + head])
        .lines()
        .next()
        .and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok());
    Ok(Some(Op::Message { subject, status, payload: whole.slice(start + head..start + total) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_taken_whole_wherever_it_is_cut() {
        let bytes: &[u8] = b"INFO {\"a\":1}\r\nPING\r\n+OK\r\n-ERR 'No'\r\nMSG _I.4 1 3\r\nabc\r\nHMSG _I.5 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\nPONG\r\n";
        for cut in 0..bytes.len() {
            let (mut input, mut found) = (BytesMut::from(&bytes[..cut]), Vec::new());
            while let Some(one) = op(&mut input).unwrap() {
                found.push(one);
            }
            input.put_slice(&bytes[cut..]);
            while let Some(one) = op(&mut input).unwrap() {
                found.push(one);
            }
            assert_eq!(found.len(), 7, "{cut}: {found:?}");
            assert_eq!(found[3], Op::Error("No".to_owned()));
            let message = |subject: &str, status, payload: &'static str| Op::Message {
                subject: subject.to_owned(),
                status,
                payload: Bytes::from_static(payload.as_bytes()),
            };
            assert_eq!(found[4], message("_I.4", None, "abc"));
            assert_eq!(found[5], message("_I.5", Some(503), ""));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_acknowledgement_holds_no_place_for_ever() {
        let mut client = Client {
            max_payload: 1 << 20,
            inbox: Some("_I.".to_owned()),
            waiting: BTreeMap::new(),
            timeout: Duration::from_secs(10),
            pings: VecDeque::new(),
            last: None,
        };
        let mut out = BytesMut::new();
        let mut heard = |client: &mut Client, number: u64| {
            let ack = "{\"stream\":\"s\",\"seq\":1}";
            let mut input =
                BytesMut::from(format!("MSG _I.{number} 1 {}\r\n{ack}\r\n", ack.len()).as_bytes());
            let mut told = Vec::new();
            assert!(client.decode(&mut input, &mut out, &mut told).unwrap());
            told.into_iter().map(|(number, result)| (number, result.map_err(|error| error.kind()))).collect()
        };
        for number in 0..4 {
            let message = Arc::new(Message::of_test("t", "x"));
            client.encode(&Outgoing { number, message }, &mut BytesMut::new()).unwrap();
        }
        let told: Vec<_> = heard(&mut client, 1);
        assert_eq!(told, [(1, Ok(()))]);
        tokio::time::advance(Duration::from_secs(10)).await;
        // What was sent after the one that is acknowledged may still come.
        let told: Vec<_> = heard(&mut client, 2);
        assert_eq!(told, [(2, Ok(())), (0, Err(Kind::Deadline))]);
        assert_eq!(client.waiting.keys().collect::<Vec<_>>(), [&3]);
    }

    #[test]
    fn hostile_servers_are_left() {
        for bytes in [
            "HTTP/1.1 400\r\n",
            "MSG\r\n",
            "MSG a 1 99999999999999999999\r\n",
            "MSG a 1 4294967295\r\n",
            "HMSG a 1 5 4\r\n",
            "MSG 1 2\r\n",
        ] {
            assert!(op(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
        assert!(op(&mut BytesMut::from(vec![b'x'; MAX_LINE + 1].as_slice())).is_err());
    }

    #[test]
    fn subjects_have_no_wildcards_and_no_lines() {
        for good in ["a", "a.b", "plants/7/temp", "a.b-c"] {
            assert!(is_subject(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            "a.",
            "a b",
            "a\r\nPUB x 0",
            "a.*",
            "a.>",
            "a*",
            "$JS.API.STREAM.DELETE.orders",
            "$SYS.x",
            "_INBOX.a",
        ] {
            assert!(!is_subject(bad), "{bad:?}");
        }
    }
}
