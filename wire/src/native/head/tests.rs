use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::Index};
use prost::Message;

use super::*;
use crate::{
    error::ErrorCode,
    native::{limits::FORWARD_ROOM, proto},
};

// The generated structs are the reference: an independent reader and writer of the same messages.

fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn to_proto_error(error: ErrorRef<'_>) -> proto::Error {
    proto::Error {
        code: error.code.to_wire().try_into().unwrap(),
        text: error.text.to_owned(),
        retry_after_ms: error.retry_after_ms,
    }
}

fn to_proto_call(call: &CallHead<'_>) -> proto::Call {
    proto::Call {
        name: call.name.to_owned(),
        edge: call.edge,
        service: call.service.to_owned(),
        timeout_ms: call.timeout_ms,
        total_len: call.total_len,
        from_edge: call.from_edge,
        from_service: call.from_service,
        headers: map(call.headers()),
        meta: call.meta.to_vec(),
        error: call.error.map(to_proto_error),
    }
}

fn to_proto_reply(reply: &ReplyHead<'_>) -> proto::Reply {
    proto::Reply {
        error: reply.error.map(to_proto_error),
        total_len: reply.total_len,
        headers: map(reply.headers()),
    }
}

/// As our readers see it: unknown codes, 0 included, count as internal.
fn known_code(error: &mut proto::Error) {
    error.code = ErrorCode::from_wire(error.code.cast_unsigned()).to_wire().cast_signed();
}

fn any_error() -> impl Strategy<Value = proto::Error> {
    (1..=15_i32, ".{0,20}", any::<u32>()).prop_map(|(code, text, retry_after_ms)| proto::Error {
        code,
        text,
        retry_after_ms,
    })
}

fn any_map() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(".{0,8}", ".{0,200}", 0..4)
}

prop_compose! {
    fn any_call()(
        name in ".{0,30}", edge: u64, service in ".{0,12}", timeout_ms: u32, total_len: u64, sender in any::<Option<bool>>(),
        id in 1_u64.., headers in any_map(), meta in vec(any::<u8>(), 0..40), error in proptest::option::of(any_error()),
    ) -> proto::Call {
        let from_edge = if sender == Some(true) { id } else { 0 };
        let from_service = if sender == Some(false) { id } else { 0 };
        proto::Call { name, edge, service, timeout_ms, total_len, from_edge, from_service, headers, meta, error }
    }
}

prop_compose! {
    fn any_reply()(
        error in proptest::option::of(any_error()), total_len: u64, headers in any_map(),
    ) -> proto::Reply {
        proto::Reply { error, total_len, headers }
    }
}

fn error_ref(error: &proto::Error) -> ErrorRef<'_> {
    let code = ErrorCode::from_wire(error.code.cast_unsigned());
    ErrorRef { code, text: &error.text, retry_after_ms: error.retry_after_ms }
}

fn pairs(map: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> + Clone {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Writes with our builder what the reference holds.
fn build_call(call: &proto::Call) -> Vec<u8> {
    let mut builder = CallBuilder::new(&call.name);
    if let Some(error) = &call.error {
        builder = builder.error(error_ref(error));
    }
    if call.from_edge != 0 {
        builder = builder.sender(Sender::Edge(call.from_edge));
    } else if call.from_service != 0 {
        builder = builder.sender(Sender::Service(call.from_service));
    }
    let builder = builder
        .edge(call.edge)
        .service(&call.service)
        .timeout_ms(call.timeout_ms)
        .total_len(call.total_len)
        .headers(pairs(&call.headers))
        .meta(&call.meta);
    let mut out = Vec::new();
    builder.encode(&mut out);
    assert_eq!(out.len(), builder.encoded_len());
    out
}

fn build_reply(reply: &proto::Reply) -> Vec<u8> {
    let builder = match &reply.error {
        Some(error) => ReplyBuilder::error(error_ref(error)),
        None => ReplyBuilder::new(),
    };
    let builder = builder.total_len(reply.total_len).headers(pairs(&reply.headers));
    let mut out = Vec::new();
    builder.encode(&mut out);
    assert_eq!(out.len(), builder.encoded_len());
    out
}

// --- bytes as hostile peers make them: fields of any number and wire type, some of them cut or bent ---

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value % 0x80) as u8 | 0x80);
        value /= 0x80;
    }
    out.push(value as u8);
}

fn any_field() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        4 => ".{0,10}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..10),
        // On the wire an entry of a map looks like names: two strings with the numbers 1 and 2.
        2 => (vec(".{0,8}", 0..3), vec(".{0,8}", 0..3))
            .prop_map(|(methods, topics)| proto::Names { methods, topics }.encode_to_vec()),
        2 => any_error().prop_map(|error| error.encode_to_vec()),
    ];
    let wire_type = prop_oneof![5 => Just(0_u64), 8 => Just(2), 1 => Just(1), 1 => Just(5), 1 => 3_u64..8];
    let field = prop_oneof![12 => 1_u64..12, 1 => any::<u64>().prop_map(|n| n >> 3)];
    (field, wire_type, any::<u64>(), content, 0_u32..64).prop_map(
        |(field, wire_type, value, content, shift)| {
            let mut out = Vec::new();
            put_varint(&mut out, (field << 3) | wire_type);
            match wire_type {
                0 => put_varint(&mut out, value >> shift),
                1 => out.extend(value.to_be_bytes()),
                2 => {
                    put_varint(&mut out, content.len() as u64);
                    out.extend(content);
                }
                5 => out.extend(&value.to_be_bytes()[..4]),
                _ => {}
            }
            out
        },
    )
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let bend = proptest::option::weighted(0.3, (any::<Index>(), any::<u8>()));
    (vec(any_field(), 0..8), bend, proptest::option::weighted(0.1, any::<Index>())).prop_map(
        |(fields, bend, cut)| {
            let mut bytes = fields.concat();
            if let Some((at, value)) = bend.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            bytes
        },
    )
}

/// Where the reference and we may differ: it skips groups, we refuse them, and it needs no UTF-8 in what it skips.
fn has_group(mut message: &[u8]) -> bool {
    loop {
        let Ok((tag, wire_type)) = prost::encoding::decode_key(&mut message) else { return false };
        if matches!(wire_type, prost::encoding::WireType::StartGroup | prost::encoding::WireType::EndGroup) {
            return true;
        }
        let before = message;
        if wire_type == prost::encoding::WireType::LengthDelimited {
            if let Ok(len) = prost::encoding::decode_varint(&mut message) {
                let inner = usize::try_from(len).ok().and_then(|len| message.get(..len));
                if inner.is_some_and(has_group) {
                    return true;
                }
            }
            message = before;
        }
        let context = prost::encoding::DecodeContext::default();
        if prost::encoding::skip_field(wire_type, tag, &mut message, context).is_err() {
            return false;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn call_is_written_and_read_like_the_reference(call in any_call()) {
        let bytes = build_call(&call);
        prop_assert_eq!(&bytes, &call.encode_to_vec());
        prop_assert_eq!(to_proto_call(&CallHead::parse(&bytes).unwrap()), call);
    }

    #[test]
    fn reply_is_written_and_read_like_the_reference(reply in any_reply()) {
        let bytes = build_reply(&reply);
        prop_assert_eq!(&bytes, &reply.encode_to_vec());
        prop_assert_eq!(to_proto_reply(&ReplyHead::parse(&bytes).unwrap()), reply);
    }

    #[test]
    fn error_is_written_and_read_like_the_reference(error in any_error()) {
        let (ours, mut bytes) = (error_ref(&error), Vec::new());
        ours.encode(&mut bytes);
        prop_assert_eq!(bytes.len(), ours.encoded_len());
        prop_assert_eq!(&bytes, &error.encode_to_vec());
        prop_assert_eq!(ErrorRef::parse(&bytes), Ok(ours));
    }

    #[test]
    fn go_away_is_written_and_read_like_the_reference(
        reconnect_in_ms: u32,
        reason in proptest::option::of(any_error()),
    ) {
        let ours = GoAway { reconnect_in_ms, reason: reason.as_ref().map(error_ref) };
        let mut bytes = Vec::new();
        ours.encode(&mut bytes);
        prop_assert_eq!(bytes.len(), ours.encoded_len());
        prop_assert_eq!(&bytes, &proto::GoAway { reconnect_in_ms, reason: reason.clone() }.encode_to_vec());
        prop_assert_eq!(GoAway::parse(&bytes), Ok(ours));
    }

    #[test]
    fn names_are_written_and_read_like_the_reference(
        methods in vec(".{0,20}", 0..6),
        topics in vec(".{0,20}", 0..6),
    ) {
        fn strs(names: &[String]) -> impl Iterator<Item = &str> {
            names.iter().map(String::as_str)
        }
        let mut bytes = Vec::new();
        Names::encode(&mut bytes, strs(&methods), strs(&topics));
        prop_assert_eq!(bytes.len(), Names::encoded_len(strs(&methods), strs(&topics)));
        let reference = proto::Names { methods: methods.clone(), topics: topics.clone() };
        prop_assert_eq!(&bytes, &reference.encode_to_vec());
        let names = Names::parse(&bytes).unwrap();
        prop_assert_eq!(names.count(), methods.len() + topics.len());
        prop_assert!(names.methods().eq(strs(&methods)) && names.topics().eq(strs(&topics)));
    }

    #[test]
    fn credit_and_locate_are_written_and_read_like_the_reference(bytes: u32, edge: u64, epoch: u64) {
        let (credit, locate) = (Credit { bytes }, Locate { edge, epoch });
        let mut out = Vec::new();
        credit.encode(&mut out);
        prop_assert_eq!(out.len(), credit.encoded_len());
        prop_assert_eq!(&out, &proto::Credit { bytes }.encode_to_vec());
        prop_assert_eq!(Credit::parse(&out), Ok(credit));
        out.clear();
        locate.encode(&mut out);
        prop_assert_eq!(out.len(), locate.encoded_len());
        prop_assert_eq!(&out, &proto::Locate { edge, epoch }.encode_to_vec());
        prop_assert_eq!(Locate::parse(&out), Ok(locate));
    }

    #[test]
    fn hostile_heads_mean_what_the_reference_reads_or_nothing(message in any_message()) {
        if has_group(&message) {
            return Ok(());
        }
        let reference = proto::Call::decode(message.as_slice()).ok().map(|mut call| {
            call.error.iter_mut().for_each(known_code);
            call
        });
        prop_assert_eq!(CallHead::parse(&message).ok().map(|call| to_proto_call(&call)), reference);
        let reference = proto::Reply::decode(message.as_slice()).ok().map(|mut reply| {
            reply.error.iter_mut().for_each(known_code);
            reply
        });
        prop_assert_eq!(ReplyHead::parse(&message).ok().map(|reply| to_proto_reply(&reply)), reference);
        let reference = proto::Names::decode(message.as_slice()).ok();
        let names = Names::parse(&message).ok().map(|names| proto::Names {
            methods: names.methods().map(str::to_owned).collect(),
            topics: names.topics().map(str::to_owned).collect(),
        });
        prop_assert_eq!(names, reference);
        let reference = proto::Locate::decode(message.as_slice()).ok();
        let locate = Locate::parse(&message).ok();
        prop_assert_eq!(locate.map(|Locate { edge, epoch }| proto::Locate { edge, epoch }), reference);
        let reference = proto::Credit::decode(message.as_slice()).ok();
        prop_assert_eq!(Credit::parse(&message).ok().map(|Credit { bytes }| proto::Credit { bytes }), reference);
        let reference = proto::GoAway::decode(message.as_slice()).ok().map(|mut away| {
            away.reason.iter_mut().for_each(known_code);
            away
        });
        let away = GoAway::parse(&message).ok().map(|GoAway { reconnect_in_ms, reason }| proto::GoAway {
            reconnect_in_ms,
            reason: reason.map(to_proto_error),
        });
        prop_assert_eq!(away, reference);
    }

    #[test]
    fn any_bytes_are_read_without_panic(message in vec(any::<u8>(), 0..200)) {
        let _ = CallHead::parse(&message).map(|call| call.headers().count());
        let _ = ReplyHead::parse(&message).map(|reply| reply.headers().count());
        let _ = Names::parse(&message).map(|names| names.methods().chain(names.topics()).count());
        let _ = (ErrorRef::parse(&message), GoAway::parse(&message));
        let _ = (Credit::parse(&message), Locate::parse(&message));
    }

    #[test]
    fn forwarding_overrides_what_a_peer_forged(message in any_message(), from_edge: bool, id: u64, timeout_ms: u32) {
        let sender = if from_edge { Sender::Edge(id) } else { Sender::Service(id) };
        let Ok(before) = CallHead::parse(&message) else { return Ok(()) };
        let mut forwarded = message.clone();
        append_forwarded(&mut forwarded, sender, timeout_ms);
        let added = forwarded.len() - message.len();
        prop_assert_eq!(added, forwarded_len(sender, timeout_ms));
        prop_assert!(added <= FORWARDED_MAX && added <= usize::from(FORWARD_ROOM));
        let after = CallHead::parse(&forwarded).unwrap();
        prop_assert_eq!(after.sender(), Some(sender).filter(|_| id != 0));
        let expected = proto::Call {
            timeout_ms,
            from_edge: if from_edge { id } else { 0 },
            from_service: if from_edge { 0 } else { id },
            ..to_proto_call(&before)
        };
        prop_assert_eq!(to_proto_call(&after), expected);
    }
}

#[test]
fn longest_addition_of_a_gateway_is_what_is_documented() {
    assert_eq!(forwarded_len(Sender::Edge(u64::MAX), u32::MAX), FORWARDED_MAX);
    assert_eq!(forwarded_len(Sender::Service(u64::MAX), u32::MAX), FORWARDED_MAX);
}

#[test]
fn empty_head_is_a_success_and_a_call_without_anything() {
    assert!(ReplyHead::parse(&[]).unwrap().error.is_none());
    let call = CallHead::parse(&[]).unwrap();
    assert_eq!((call.name, call.sender(), call.headers().count()), ("", None, 0));
}

#[test]
fn last_value_of_a_header_counts() {
    let first = CallBuilder::new("m").headers([("k", "old"), ("other", "x")]);
    let second = CallBuilder::new("").headers([("k", "new")]);
    let mut head = Vec::new();
    first.encode(&mut head);
    second.encode(&mut head);
    let call = CallHead::parse(&head).unwrap();
    assert_eq!(call.headers().value("k"), Some("new"));
    assert_eq!(call.headers().value("other"), Some("x"));
    assert_eq!(call.headers().value("absent"), None);
    assert_eq!(call.headers().count(), 3);
}

#[test]
fn malformed_heads_are_told_apart() {
    let cases: [(&[u8], HeadError); 12] = [
        (&[0x0a], HeadError::Truncated),
        (&[0x0a, 5, b'a'], HeadError::Truncated),
        (&[0x10, 0x80], HeadError::Truncated),
        (&[0x79, 1, 2, 3], HeadError::Truncated),
        (&[0x80], HeadError::Truncated),
        (&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], HeadError::Varint),
        (&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0], HeadError::Varint),
        (&[0x02, 0], HeadError::Tag { tag: 2 }),
        (&[0x7b, 0x7c], HeadError::Tag { tag: 0x7b }),
        (&[0x08, 1], HeadError::WireType { field: 1 }),
        (&[0x12, 0], HeadError::WireType { field: 2 }),
        (&[0x0a, 1, 0xff], HeadError::NotUtf8 { field: 1 }),
    ];
    for (head, error) in cases {
        assert_eq!(CallHead::parse(head).err(), Some(error), "{head:02x?}");
    }
}

#[test]
fn malformed_header_entry_fails_the_whole_head() {
    for entry in [&[0x42, 3, 0x0a, 1, 0xff][..], &[0x42, 1, 0x0a], &[0x42, 2, 0x08, 1]] {
        assert!(CallHead::parse(entry).is_err(), "{entry:02x?}");
    }
}

#[test]
fn largest_varint_is_read() {
    let head = [0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(CallHead::parse(&head).unwrap().edge, u64::MAX);
}

#[test]
fn error_reply_is_short_and_exact() {
    let mut head = Vec::new();
    encode_error_reply(&mut head, ErrorCode::EdgeNotOnline, "edge not online");
    assert_eq!(head.len(), error_reply_len(ErrorCode::EdgeNotOnline, "edge not online"));
    let error = ReplyHead::parse(&head).unwrap().error.unwrap();
    assert_eq!(error, ErrorRef::new(ErrorCode::EdgeNotOnline, "edge not online"));
}

#[test]
fn aborting_head_carries_its_error() {
    let error = ErrorRef { retry_after_ms: 9, ..ErrorRef::new(ErrorCode::Overloaded, "full") };
    let mut head = Vec::new();
    CallBuilder::abort(error).encode(&mut head);
    assert_eq!(CallHead::parse(&head).unwrap().error, Some(error));
}

#[test]
fn unknown_error_code_counts_as_internal() {
    let error = proto::Error { code: 4_711, text: "later".into(), retry_after_ms: 0 };
    let head = error.encode_to_vec();
    let read = ErrorRef::parse(&head).unwrap();
    assert_eq!((read.code, read.text), (ErrorCode::Internal, "later"));
}
