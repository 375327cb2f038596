//! Every head, from any bytes: our readers find what the generated structs find or refuse, and what they found survives our writers.

use frontier_wire::native::{
    head::{
        CallBuilder, CallHead, Credit, ErrorRef, FORWARDED_MAX, GoAway, HeadError, Locate, Names,
        ReplyBuilder, ReplyHead, Sender, append_forwarded, forwarded_len,
    },
    hello::{Hello, Welcome},
    limits::HelloLimits,
    presence::{EdgeInfo, EdgeInfoBuilder, PresencePage},
    proto,
};
use prost::Message;

pub fn run(data: &[u8]) {
    call(data);
    reply(data);
    small(data);
    presence(data);
    handshake(data);
}

/// We refuse groups, which the reference skips; else both read the same bytes.
fn agree<M: Message + Default>(data: &[u8], ours: Option<HeadError>) -> Option<M> {
    match (ours, M::decode(data)) {
        (None, Ok(message)) => Some(message),
        (None, Err(error)) => panic!("read what protobuf refuses: {error}"),
        (Some(HeadError::Tag { .. }), _) | (Some(_), Err(_)) => None,
        (Some(error), Ok(message)) => {
            panic!("refused what protobuf reads, {} bytes: {error}", message.encoded_len())
        }
    }
}

fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    let map: std::collections::BTreeMap<&str, &str> = pairs.into_iter().collect();
    map.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn same_error(ours: Option<ErrorRef<'_>>, reference: Option<&proto::Error>) {
    assert_eq!(ours.is_some(), reference.is_some());
    if let (Some(ours), Some(reference)) = (ours, reference) {
        assert_eq!((ours.text, ours.retry_after_ms), (reference.text.as_str(), reference.retry_after_ms));
        assert!(ours.code.to_wire().cast_signed() == reference.code || !(1..=15).contains(&reference.code));
    }
}

fn call(data: &[u8]) {
    let parsed = CallHead::parse(data);
    let Some(reference) = agree::<proto::Call>(data, parsed.err()) else { return };
    let Ok(call) = parsed else { return };
    same_call(&call, &reference);

    let mut builder = CallBuilder::new(call.name)
        .edge(call.edge)
        .service(call.service)
        .timeout_ms(call.timeout_ms)
        .total_len(call.total_len)
        .meta(call.meta);
    if let Some(error) = call.error {
        builder = builder.error(error);
    }
    if let Some(sender) = call.sender() {
        builder = builder.sender(sender);
    }
    let builder = builder.headers(call.headers());
    let mut again = Vec::new();
    builder.encode(&mut again);
    assert_eq!(again.len(), builder.encoded_len());
    let again = CallHead::parse(&again).expect("our own writing");
    assert!(
        again.headers().eq(call.headers()) && again.error == call.error && again.sender() == call.sender()
    );
    assert_eq!(
        (again.name, again.edge, again.service, again.meta),
        (call.name, call.edge, call.service, call.meta)
    );
    assert_eq!((again.timeout_ms, again.total_len), (call.timeout_ms, call.total_len));

    forwarded(data, &call);
}

fn same_call(call: &CallHead<'_>, reference: &proto::Call) {
    let ours = (
        call.name,
        call.edge,
        call.service,
        call.timeout_ms,
        call.total_len,
        call.from_edge,
        call.from_service,
    );
    let theirs = (
        reference.name.as_str(),
        reference.edge,
        reference.service.as_str(),
        reference.timeout_ms,
        reference.total_len,
        reference.from_edge,
        reference.from_service,
    );
    assert_eq!(ours, theirs);
    assert_eq!(call.meta, reference.meta);
    assert!(map(call.headers()).into_iter().eq(reference.headers.clone()));
    same_error(call.error, reference.error.as_ref());
}

/// Whatever the sender forged, what the gateway appends counts.
fn forwarded(data: &[u8], call: &CallHead<'_>) {
    for sender in [Sender::Edge(call.from_edge.wrapping_add(1)), Sender::Service(u64::MAX)] {
        let mut head = data.to_vec();
        append_forwarded(&mut head, sender, call.timeout_ms / 2);
        let added = head.len() - data.len();
        assert_eq!(added, forwarded_len(sender, call.timeout_ms / 2));
        assert!(added <= FORWARDED_MAX);
        let passed_on = CallHead::parse(&head).expect("still well-formed");
        assert_eq!(passed_on.sender(), Some(sender).filter(|sender| *sender != Sender::Edge(0)));
        assert_eq!(passed_on.timeout_ms, call.timeout_ms / 2);
        assert_eq!((passed_on.name, passed_on.edge, passed_on.meta), (call.name, call.edge, call.meta));
    }
}

fn reply(data: &[u8]) {
    let parsed = ReplyHead::parse(data);
    let Some(reference) = agree::<proto::Reply>(data, parsed.err()) else { return };
    let Ok(reply) = parsed else { return };
    assert_eq!(reply.total_len, reference.total_len);
    assert!(map(reply.headers()).into_iter().eq(reference.headers));
    same_error(reply.error, reference.error.as_ref());

    let builder = reply.error.map_or_else(ReplyBuilder::new, ReplyBuilder::error);
    let builder = builder.total_len(reply.total_len).headers(reply.headers());
    let mut again = Vec::new();
    builder.encode(&mut again);
    assert_eq!(again.len(), builder.encoded_len());
    let again = ReplyHead::parse(&again).expect("our own writing");
    assert!(again.headers().eq(reply.headers()));
    assert_eq!((again.error, again.total_len), (reply.error, reply.total_len));
}

fn small(data: &[u8]) {
    let error = ErrorRef::parse(data);
    if let Some(reference) = agree::<proto::Error>(data, error.err()) {
        same_error(error.ok(), Some(&reference));
    }
    if let Ok(error) = error {
        let mut again = Vec::new();
        error.encode(&mut again);
        assert_eq!((ErrorRef::parse(&again), again.len()), (Ok(error), error.encoded_len()));
    }
    let away = GoAway::parse(data);
    if let Some(reference) = agree::<proto::GoAway>(data, away.err()) {
        let away = away.expect("agreed");
        assert_eq!(away.reconnect_in_ms, reference.reconnect_in_ms);
        same_error(away.reason, reference.reason.as_ref());
        let mut again = Vec::new();
        away.encode(&mut again);
        assert_eq!((GoAway::parse(&again), again.len()), (Ok(away), away.encoded_len()));
    }
    let names = Names::parse(data);
    if let Some(reference) = agree::<proto::Names>(data, names.err()) {
        let names = names.expect("agreed");
        assert!(names.methods().eq(reference.methods.iter().map(String::as_str)));
        assert!(names.topics().eq(reference.topics.iter().map(String::as_str)));
        assert_eq!(names.count(), reference.methods.len() + reference.topics.len());
    }
    let credit = Credit::parse(data);
    if let Some(reference) = agree::<proto::Credit>(data, credit.err()) {
        assert_eq!(credit.map(|credit| credit.bytes), Ok(reference.bytes));
    }
    let locate = Locate::parse(data);
    if let Some(reference) = agree::<proto::Locate>(data, locate.err()) {
        assert_eq!(locate.map(|locate| (locate.edge, locate.epoch)), Ok((reference.edge, reference.epoch)));
    }
}

fn presence(data: &[u8]) {
    let page = PresencePage::parse(data);
    let reference = agree::<proto::PresencePage>(data, page.as_ref().err().copied());
    if let (Ok(page), Some(reference)) = (page, reference) {
        let mut again = Vec::new();
        for info in page.clone() {
            let labels: Vec<(&str, &str)> = info.labels().collect();
            let builder =
                EdgeInfoBuilder::new(info.edge, info.epoch).meta(info.meta).addr(info.addr).labels(labels);
            let before = again.len();
            builder.append_to_page(&mut again);
            assert_eq!(again.len() - before, builder.page_len());
        }
        assert_eq!(proto::PresencePage::decode(again.as_slice()), Ok(reference));
    }
    let info = EdgeInfo::parse(data);
    if let Some(reference) = agree::<proto::EdgeInfo>(data, info.err()) {
        let info = info.expect("agreed");
        assert_eq!(
            (info.edge, info.epoch, info.addr),
            (reference.edge, reference.epoch, reference.addr.as_str())
        );
        assert_eq!(info.meta, reference.meta);
        assert!(map(info.labels()).into_iter().eq(reference.labels));
    }
}

fn handshake(data: &[u8]) {
    let limits = HelloLimits {
        meta: 64,
        token: 32,
        ticket: 16,
        labels: 3,
        label_key: 5,
        label_value: 6,
        names: 4,
        name: 8,
    };
    if let Ok(hello) = Hello::decode(data, &limits) {
        assert_eq!(hello.check(&limits), Ok(()));
        let mut again = Vec::new();
        hello.encode(&mut again);
        assert_eq!(again.len(), hello.encoded_len());
        assert_eq!(Hello::decode(&again, &limits), Ok(hello));
    }
    if let Ok(welcome) = Welcome::decode(data) {
        let mut again = Vec::new();
        welcome.encode(&mut again);
        assert_eq!(again.len(), welcome.encoded_len());
        assert_eq!(Welcome::decode(&again), Ok(welcome));
    }
}
