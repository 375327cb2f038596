//! Calls and messages of the load in geminio.

use anyhow::{Result, bail, ensure};
use frontier_wire::geminio::{
    base64,
    connection::{Answered, Event},
    data::{Content, Data, Object, append_tail, split_tail},
    dialogue::DialogueId,
};

use super::{
    drive::{Geminio, Net},
    object,
};
use crate::load::{
    crew::{METHOD, TOPIC},
    exchange::{Ask, Kind, Said, Sender},
};

impl Ask for Geminio {
    fn address(_: Kind, edge: Option<u64>) -> Vec<u8> {
        edge.map(|edge| append_tail(b"", edge)).unwrap_or_default()
    }

    fn ask(net: &mut Net, key: usize, kind: Kind, line: u64, address: &[u8], payload: &[u8]) -> Result<u64> {
        let (value, custom, now) = (Content::Plain(payload), Content::Plain(address), net.micros());
        Ok(match kind {
            Kind::Call => {
                let call = Object { key: Content::Plain(METHOD.as_bytes()), value, custom, ..object() };
                net.wire(key).request(DialogueId::FIRST, &call)?
            }
            Kind::Publish => {
                let message = Object { topic: TOPIC, value, custom, ..object() };
                net.wire(key).publish(DialogueId::FIRST, line, &message, now)?.packet
            }
        })
    }

    fn said(event: &Event<&[u8]>) -> Result<Said> {
        let (kind, asked) = match event {
            Event::Request(asked) => (Kind::Call, asked),
            Event::Message(asked) => (Kind::Publish, asked),
            Event::Response { packet, data, .. } | Event::Acked { packet, data, .. } => {
                let error = data.error();
                return Ok(Said::Answered(*packet, (!error.is_empty()).then(|| error.to_owned())));
            }
            event => bail!("unexpected {event:?}"),
        };
        // Edges are not told who it is.
        let sender = split_tail(asked.data.custom()).map_or(Sender::Unknown, |(_, edge)| Sender::Edge(edge));
        Ok(Said::Asked(kind, sender))
    }

    /// As it was before it became base64.
    fn payload<'a>(event: &'a Event<&[u8]>, plain: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        plain.clear();
        ensure!(base64::decode_to(plain, data(event)?.value()), "malformed base64");
        Ok(plain)
    }

    fn answer(net: &mut Net, key: usize, event: &Event<&[u8]>) -> Result<()> {
        let (operation, answer) = match event {
            Event::Request(asked) => {
                let (key, value) = (Content::Encoded(asked.data.key()), Content::Encoded(asked.data.value()));
                (asked.id, Object { key, value, ..object() })
            }
            Event::Message(asked) => (asked.id, object()),
            event => bail!("no answer is due to {event:?}"),
        };
        let answered = net.wire(key).respond(operation, &answer);
        ensure!(answered == Answered::Sent, "answer was {answered:?}");
        Ok(())
    }

    fn has_room(net: &mut Net, key: usize, _: usize) -> bool {
        net.wire(key).sending() == 0
    }
}

fn data<'a, 'b>(event: &'a Event<&'b [u8]>) -> Result<&'a Data<&'b [u8]>> {
    match event {
        Event::Request(asked) | Event::Message(asked) => Ok(&asked.data),
        Event::Response { data, .. } | Event::Acked { data, .. } => Ok(data),
        event => bail!("unexpected {event:?}"),
    }
}
