//! Reads a message with our reader and writes with our writer what was found.

use frontier_wire::native::{
    head::{CallBuilder, CallHead, Credit, ErrorRef, GoAway, Locate, Names, ReplyBuilder, ReplyHead, Sender},
    hello::{Hello, Welcome},
    limits::HelloLimits,
    presence::{EdgeInfo, EdgeInfoBuilder, PresencePage},
};

/// The message `name`, from our reader through our writer.
pub(crate) fn rewrite(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match name {
        "Hello" => Hello::decode(bytes, &HelloLimits::default()).unwrap().encode(&mut out),
        "Welcome" => Welcome::decode(bytes).unwrap().encode(&mut out),
        "Error" => ErrorRef::parse(bytes).unwrap().encode(&mut out),
        "GoAway" => GoAway::parse(bytes).unwrap().encode(&mut out),
        "Names" => {
            let names = Names::parse(bytes).unwrap();
            Names::encode(&mut out, names.methods(), names.topics());
        }
        "Call" => call(&CallHead::parse(bytes).unwrap(), &mut out),
        "Reply" => reply(&ReplyHead::parse(bytes).unwrap(), &mut out),
        "Credit" => Credit::parse(bytes).unwrap().encode(&mut out),
        "Locate" => Locate::parse(bytes).unwrap().encode(&mut out),
        "EdgeInfo" => builder(&EdgeInfo::parse(bytes).unwrap()).encode(&mut out),
        "PresencePage" => {
            PresencePage::parse(bytes).unwrap().for_each(|info| builder(&info).append_to_page(&mut out));
        }
        _ => panic!("no reader for {name}"),
    }
    out
}

fn call(call: &CallHead<'_>, out: &mut Vec<u8>) {
    let mut builder = CallBuilder::new(call.name)
        .edge(call.edge)
        .service(call.service)
        .timeout_ms(call.timeout_ms)
        .total_len(call.total_len)
        .meta(call.meta);
    if let Some(error) = call.error {
        builder = builder.error(error);
    }
    // Both fields are looked at, so a value in the wrong one shows.
    builder = match (call.from_edge, call.from_service) {
        (0, 0) => builder,
        (edge, 0) => builder.sender(Sender::Edge(edge)),
        (0, service) => builder.sender(Sender::Service(service)),
        both => panic!("two senders: {both:?}"),
    };
    builder.headers(call.headers()).encode(out);
}

fn reply(reply: &ReplyHead<'_>, out: &mut Vec<u8>) {
    let builder = reply.error.map_or_else(ReplyBuilder::new, ReplyBuilder::error);
    builder.total_len(reply.total_len).headers(reply.headers()).encode(out);
}

fn builder<'a>(
    info: &EdgeInfo<'a>,
) -> EdgeInfoBuilder<'a, impl IntoIterator<Item = (&'a str, &'a str)> + Clone + use<'a>> {
    EdgeInfoBuilder::new(info.edge, info.epoch).meta(info.meta).addr(info.addr).labels(info.labels())
}
