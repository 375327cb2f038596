//! The session in section 11 of `docs/protocol.md`, taken apart as a client in another language would: yamux frames by hand, then
//! native frames per stream and direction.

use std::collections::BTreeMap;

use frontier_wire::native::{
    frame::FrameHeader,
    head::{CallHead, Sender, append_forwarded},
    limits::FrameLimits,
    reader::FrameReader,
};

use crate::{
    pool,
    rewrite::rewrite,
    vector::{Message, unhex},
};

/// Direction, stream, name, id, head and body of each frame the text promises.
type Expected = (char, u32, &'static str, u64, &'static str, &'static [u8]);

const SESSION: [Expected; 14] = [
    ('>', 1, "Hello", 0, HELLO, b""),
    ('<', 1, "Welcome", 0, WELCOME, b""),
    ('>', 1, "Register", 1, r#"Names { methods: "echo" }"#, b""),
    ('<', 1, "Ack", 1, "Reply {}", b""),
    ('>', 1, "Request", 2, r#"Call { name: "sum" timeout_ms: 1500 }"#, b"[2,3]"),
    ('<', 1, "Response", 2, "Reply {}", b"5"),
    ('>', 1, "Publish", 3, r#"Call { name: "telemetry" }"#, b"21.5"),
    ('<', 1, "Ack", 3, "Reply {}", b""),
    ('<', 1, "Request", 1, r#"Call { name: "echo" edge: 4711 from_service: 9 timeout_ms: 29950 }"#, b"hi"),
    ('>', 1, "Response", 1, "Reply {}", b"hi"),
    ('>', 3, "Open", 1, r#"Call { name: "files" }"#, b""),
    ('<', 3, "OpenAck", 1, "Reply {}", b""),
    ('>', 3, "Data", 0, "Reply {}", b"hello"),
    ('<', 3, "Data", 0, "Reply {}", b"bye"),
];

const HELLO: &str = r#"Hello { version: 1 role: EDGE instance: "\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f" meta: "sn-42" stream_window: 65536 }"#;
const WELCOME: &str = r#"Welcome { version: 1 id: 4711 epoch: 112589990684262401 ticket: "\xca\xfe\xca\xfe" shards: 1 stream_window: 65536 heartbeat_ms: 20000 max_body: 16777216 max_in_flight: 1024 }"#;

const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const SYN: u8 = 1;
const ACK: u8 = 2;
const FIN: u8 = 4;

/// A line of the listing: who sends, which bytes, what the comment says.
struct Line<'a> {
    from: char,
    bytes: Vec<u8>,
    comment: &'a str,
}

#[derive(Debug, PartialEq)]
struct Sent {
    from: char,
    stream: u32,
    header: FrameHeader,
    head: Vec<u8>,
    body: Vec<u8>,
}

fn lines() -> Vec<Line<'static>> {
    let document = include_str!("../../../docs/protocol.md");
    let block = document.split("```hex\n").nth(1).and_then(|rest| rest.split("\n```").next());
    let lines = block.expect("a listing").lines().filter(|line| !line.is_empty());
    lines.map(line).collect()
}

fn line(line: &'static str) -> Line<'static> {
    let (code, comment) = line.split_once('#').expect("a comment on each line");
    let from = code.chars().next().expect("a direction");
    assert!("<>".contains(from), "{line}");
    Line { from, bytes: unhex(code[1..].trim()), comment }
}

/// Takes the listing apart; checks what yamux demands on the way.
fn sent() -> Vec<Sent> {
    let (mut readers, mut flags) =
        (BTreeMap::<(char, u32), FrameReader>::new(), BTreeMap::<(char, u32), u8>::new());
    let (mut sent, mut lines) = (Vec::new(), lines().into_iter().peekable());
    while let Some(line) = lines.next() {
        let [version, kind, flag_high, flag, s0, s1, s2, s3, l0, l1, l2, l3] =
            line.bytes.try_into().expect("a yamux header on a line of its own");
        let (stream, len) = (u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes([l0, l1, l2, l3]));
        assert_eq!((version, flag_high), (0, 0));
        *flags.entry((line.from, stream)).or_default() |= flag;
        let shown = if kind == DATA {
            format!("yamux: data, stream {stream}, {len} bytes")
        } else {
            "yamux: window update".into()
        };
        assert!(line.comment.contains(&shown), "{}", line.comment);
        if kind == WINDOW_UPDATE {
            assert_eq!(len, 0);
            continue;
        }
        assert_eq!(kind, DATA);
        let mut payload = Vec::new();
        while payload.len() < len as usize {
            let part = lines.next().expect("the payload");
            assert_eq!(part.from, line.from);
            payload.extend(part.bytes);
        }
        assert_eq!(payload.len(), len as usize);
        let reader = readers.entry((line.from, stream)).or_default();
        let mut input = payload.as_slice();
        while let Some(frame) = reader.next(&mut input, &FrameLimits::GATEWAY).expect("within limits") {
            let (head, body) = (frame.head.to_vec(), frame.body.to_vec());
            sent.push(Sent { from: line.from, stream, header: frame.header, head, body });
        }
        assert!(reader.is_idle(), "a frame of the listing is cut");
    }
    // The edge opened both streams; the second was closed by both.
    assert_eq!(flags[&('>', 1)], SYN);
    assert_eq!(flags[&('<', 1)], ACK);
    assert_eq!(flags[&('>', 3)], SYN | FIN);
    assert_eq!(flags[&('<', 3)], ACK | FIN);
    sent
}

#[test]
fn listing_is_the_session_it_describes() {
    let pool = pool();
    let sent = sent();
    assert_eq!(sent.len(), SESSION.len());
    for (frame, (from, stream, name, id, text, body)) in sent.iter().zip(SESSION) {
        assert_eq!((frame.from, frame.stream, frame.header.id), (from, stream, id), "{name}");
        assert_eq!(frame.header.kind.name().replace('_', ""), name.to_lowercase());
        assert_eq!(frame.body, body, "{name}");
        let message = Message::parse(text);
        assert_eq!(rewrite(&message.name, &frame.head), message.encode(&pool), "{name}");
    }
}

#[test]
fn our_writers_give_the_frames_of_the_listing() {
    for (frame, (.., text, _)) in sent().iter().zip(SESSION) {
        let expected = [frame.header.encode().as_slice(), &frame.head, &frame.body].concat();
        let mut head = rewrite(&Message::parse(text).name, &frame.head);
        if let Ok(call) = CallHead::parse(&frame.head)
            && call.from_service != 0
        {
            // What the gateway appended comes behind what the service wrote, not in the order of the fields.
            head = frame.head[..frame.head.len() - 8].to_vec();
            append_forwarded(&mut head, Sender::Service(9), 29_950);
        }
        let mut bytes = Vec::new();
        frame.header.put_frame(&mut bytes, &head, &frame.body).expect("it fits");
        assert_eq!(bytes, expected, "{frame:?}");
    }
}

#[test]
fn comments_name_every_frame_with_its_lengths() {
    let comments: Vec<String> = lines().iter().map(|line| line.comment.trim().to_owned()).collect();
    let mut titles = comments.iter().filter(|comment| comment.contains(", id "));
    for (frame, expected) in sent().iter().zip(SESSION) {
        let part =
            |name: &str, len: usize| if len == 0 { format!("no {name}") } else { format!("{name} {len}") };
        let (head, body) = (part("head", frame.head.len()), part("body", frame.body.len()));
        let title = format!("{}: {head}, {body}, id {}", expected.2, frame.header.id);
        assert!(titles.next().is_some_and(|comment| comment.starts_with(&title)), "no comment `{title}`");
    }
    assert_eq!(titles.next(), None);
}
