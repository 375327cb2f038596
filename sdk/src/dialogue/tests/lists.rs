//! Who is online, asked by several at once.

use frontier_wire::native::{frame::Flags, head::encode_error_reply, presence::EdgeInfoBuilder};

use super::*;
use crate::presence::EdgeInfo;

type Asked = Answer<Vec<EdgeInfo>>;

/// A service and frames of a gateway for it.
struct Asker(Side, Instant);

impl Asker {
    fn new() -> Self {
        let now = Instant::now();
        Self(Side::new(now), now)
    }

    fn ask(&mut self) -> Asked {
        let (promise, answer) = promise();
        self.0.dialogue.start_presence(promise, &mut self.0.wire);
        answer
    }

    /// The ids of the questions sent since the last look.
    fn sent(&mut self) -> Vec<u64> {
        let Some(bytes) = self.0.wire.next() else { return Vec::new() };
        let mut input = Bytes::from(bytes);
        let mut reader = FrameReader::new();
        let mut ids = Vec::new();
        while let Some(frame) = reader.next(&mut input, &FrameLimits::DIALER).unwrap() {
            assert_eq!(frame.header.kind, FrameType::Presence);
            ids.push(frame.header.id);
        }
        ids
    }

    fn answer(&mut self, id: u64, more: bool, head: &[u8], edges: &[u64]) {
        let mut body = Vec::new();
        for edge in edges {
            EdgeInfoBuilder::new(*edge, 1).append_to_page(&mut body);
        }
        let flags = if more { Flags::MORE } else { Flags::NONE };
        let header = FrameHeader::new(FrameType::Presence, id).with_flags(flags);
        let header = header.with_lens(head.len(), body.len()).unwrap();
        let mut input = Bytes::from([&header.encode()[..], head, &body].concat());
        let frame = FrameReader::new().next(&mut input, &FrameLimits::DIALER).unwrap().unwrap();
        self.0.dialogue.on_frame(frame, self.1, &mut self.0.wire, &self.0.host);
    }
}

/// What an answer came to; `None` if it has not come.
fn outcome(answer: &mut Asked) -> Option<Result<Vec<u64>, ErrorCode>> {
    let Poll::Ready(outcome) = std::pin::Pin::new(answer).poll(&mut Context::from_waker(Waker::noop()))
    else {
        return None;
    };
    let ids = |edges: Vec<EdgeInfo>| edges.iter().map(|edge| edge.id().get()).collect();
    Some(outcome.map(ids).map_err(|error| error.code()))
}

#[test]
fn who_asks_while_a_list_is_coming_shares_the_next_one() {
    let mut asker = Asker::new();
    let mut first = asker.ask();
    assert_eq!(asker.sent(), [1]);
    let (mut second, mut third) = (asker.ask(), asker.ask());
    asker.answer(1, true, b"", &[7]);
    assert!(asker.sent().is_empty(), "a gateway refuses a second question");
    asker.answer(1, false, b"", &[]);
    assert_eq!(outcome(&mut first), Some(Ok(vec![7])));
    assert_eq!(outcome(&mut second), None, "8 may have come before the second asked");
    assert_eq!(asker.sent(), [2]);
    asker.answer(2, true, b"", &[7]);
    asker.answer(2, false, b"", &[8]);
    assert_eq!(outcome(&mut second), Some(Ok(vec![7, 8])));
    assert_eq!(outcome(&mut third), Some(Ok(vec![7, 8])));
    assert!(asker.sent().is_empty() && asker.0.dialogue.is_idle());
}

#[test]
fn a_list_that_nobody_wants_any_more_is_waited_for() {
    let mut asker = Asker::new();
    drop(asker.ask());
    assert_eq!(asker.sent(), [1]);
    drop(asker.ask());
    let mut last = asker.ask();
    assert_eq!(asker.0.dialogue.outgoing(), 1, "only what was sent takes a place");
    asker.answer(1, false, b"", &[7]);
    assert_eq!(asker.sent(), [2]);
    asker.answer(2, false, b"", &[8]);
    assert_eq!(outcome(&mut last), Some(Ok(vec![8])));
    // Whoever gave up before the question was sent is not asked for.
    let mut first = asker.ask();
    drop(asker.ask());
    assert_eq!(asker.sent(), [3]);
    asker.answer(3, false, b"", &[]);
    assert_eq!(outcome(&mut first), Some(Ok(vec![])));
    assert!(asker.sent().is_empty() && asker.0.dialogue.is_idle());
}

#[test]
fn a_refusal_is_for_those_it_answers() {
    let mut asker = Asker::new();
    let (mut first, mut second) = (asker.ask(), asker.ask());
    let mut head = Vec::new();
    encode_error_reply(&mut head, ErrorCode::Overloaded, "full");
    assert_eq!(asker.sent(), [1]);
    asker.answer(1, false, &head, &[]);
    assert_eq!(outcome(&mut first), Some(Err(ErrorCode::Overloaded)));
    assert_eq!(asker.sent(), [2]);
    asker.answer(2, false, b"", &[7]);
    assert_eq!(outcome(&mut second), Some(Ok(vec![7])));
}

#[test]
fn the_end_of_the_session_is_told_to_all() {
    let mut asker = Asker::new();
    let mut both = [asker.ask(), asker.ask()];
    asker.0.dialogue.fail(&Error::session_closed("over"));
    for asked in &mut both {
        assert_eq!(outcome(asked), Some(Err(ErrorCode::SessionClosed)));
    }
    assert!(asker.0.dialogue.is_idle());
}
