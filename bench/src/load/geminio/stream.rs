//! A stream of the load in geminio: packets of raw bytes, one per write, without windows.

use anyhow::{Result, bail, ensure};
use frontier_wire::geminio::{connection::Event, data::Content};

use super::drive::{Geminio, Net};
use crate::load::{
    crew::SERVICE,
    stream::{Carry, Told},
};

impl Carry for Geminio {
    fn open(net: &mut Net, key: usize, edge: Option<u64>) -> Result<()> {
        let peer = edge.map_or_else(|| SERVICE.to_owned(), |edge| edge.to_string());
        let now = net.micros();
        net.wire(key).open(&peer, Content::None, now)?;
        Ok(())
    }

    fn write(net: &mut Net, key: usize, bytes: &[u8]) -> Result<bool> {
        let stream = net.conn(key).speech.stream;
        if let Some(dialogue) = stream {
            net.send_raw(key, dialogue, bytes);
        }
        Ok(stream.is_some())
    }

    fn told<'a>(net: &mut Net, key: usize, event: Self::Heard<'a>) -> Result<Told<'a>> {
        match event {
            Event::Open { dialogue, .. } => {
                ensure!(net.wire(key).accept(dialogue), "the stream was taken back");
                Ok(Told::Accepted)
            }
            Event::Opened { dialogue, .. } => {
                net.conn(key).speech.stream = Some(dialogue);
                Ok(Told::Opened)
            }
            Event::Raw(dialogue, bytes) => {
                let now = net.micros();
                net.wire(key).release(dialogue, bytes.len(), now);
                Ok(Told::Bytes(bytes))
            }
            event => bail!("unexpected {event:?}"),
        }
    }
}
