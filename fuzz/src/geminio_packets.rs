//! Packets of geminio. The input is how to cut the stream, and the stream: what transcripts hold is input as it is.

use bytes::Bytes;
use frontier_wire::{
    chunk::Chunk,
    geminio::{
        base64,
        data::{Data, Object, decode},
        limits::{PacketError, PacketLimits},
        packet::PacketHeader,
        reader::{Item, Packet, PacketReader},
    },
};

use super::script::{Noise, Script};

/// What was read, owned. Raw bytes that follow each other are one.
#[derive(Debug, PartialEq, Eq)]
enum Whole {
    Packet(PacketHeader, Vec<u8>, Vec<u8>),
    Raw(u64, Vec<u8>),
    TooLarge(PacketHeader, u64),
}

pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mode = script.u8();
    let mut noise = Noise::new(u64::from(script.u16()) << 8 | 1);
    let most = script.usize();
    let stream = script.take(data.len());
    let most = most + stream.len() / 512 + 1;
    let limits = if mode & 4 == 0 {
        PacketLimits::default()
    } else {
        PacketLimits { body: 100, control: 80, name: 10 }
    };

    let mut whole = Reading::new(limits);
    let error = whole.drain(stream).err();
    let mut cut = Reading::new(limits);
    let cut_error = cut.read(stream, &mut noise, most, mode & 1 != 0, mode & 2 != 0).err();
    assert_eq!(cut.items, whole.items);
    assert_eq!(cut_error, error);
    assert!(!cut.reader.is_idle() || cut.reader.held() == 0);
}

struct Reading {
    reader: PacketReader,
    limits: PacketLimits,
    items: Vec<Whole>,
}

impl Reading {
    fn new(limits: PacketLimits) -> Self {
        Self { reader: PacketReader::new(), limits, items: Vec::new() }
    }

    fn read(
        &mut self,
        mut stream: &[u8],
        noise: &mut Noise,
        most: usize,
        counted: bool,
        direct: bool,
    ) -> Result<(), PacketError> {
        while !stream.is_empty() {
            let (piece, rest) = stream.split_at(noise.upto(most).clamp(1, stream.len()));
            let want = self.reader.direct_want();
            if direct && want > 0 {
                let (piece, _) = piece.split_at(want.min(piece.len()));
                let buffer = self.reader.direct_buffer().expect("wanted");
                assert!(buffer.capacity() - buffer.len() >= want);
                buffer.extend_from_slice(piece);
                stream = &stream[piece.len()..];
                let item = self.reader.finish_direct::<&[u8]>();
                item.into_iter().for_each(|item| self.note(item));
            } else {
                stream = rest;
                if counted {
                    self.drain(Bytes::copy_from_slice(piece))?;
                } else {
                    self.drain(piece)?;
                }
            }
            // What came, twice over while a buffer doubles, and what is reserved on the word of a header.
            assert!(self.reader.held() <= 2 * 11_000_000);
        }
        Ok(())
    }

    fn drain<B: Chunk>(&mut self, mut input: B) -> Result<(), PacketError> {
        loop {
            match self.reader.next(&mut input, &self.limits) {
                Ok(Some(item)) => self.note(item),
                Ok(None) => {
                    assert!(input.is_empty());
                    return Ok(());
                }
                Err(error) => {
                    // It stays.
                    assert_eq!(self.reader.next(&mut input, &self.limits).err(), Some(error));
                    return Err(error);
                }
            }
        }
    }

    fn note<B: Chunk>(&mut self, item: Item<B>) {
        let whole = match item {
            Item::Packet(packet) => {
                let whole = Whole::Packet(packet.header, packet.fixed().to_vec(), packet.rest.to_vec());
                check(packet);
                whole
            }
            Item::Raw { session, bytes } => {
                assert!(!bytes.is_empty());
                if let Some(Whole::Raw(last, all)) = self.items.last_mut()
                    && *last == session
                {
                    all.extend_from_slice(&bytes);
                    return;
                }
                Whole::Raw(session, bytes.to_vec())
            }
            Item::TooLarge { header, session } => Whole::TooLarge(header, session),
        };
        self.items.push(whole);
    }
}

/// What is read of a JSON object survives being written.
fn check<B: Chunk>(packet: Packet<B>) {
    let Some(fields) = packet.header.kind.fields() else { return };
    let len = packet.rest.len();
    let Ok(data) = Data::parse(packet.rest, fields) else { return };
    assert!(data.rewritten() <= 4 * len + 16);
    for encoded in [data.meta(), data.key(), data.value(), data.custom()] {
        assert!(base64::is_well_formed(encoded));
        assert_eq!(decode(encoded).len(), base64::decoded_len(encoded));
    }
    assert_eq!(data.shared_value(), data.value());
    let text = written(&data.object());
    let again =
        Data::<&[u8]>::parse(frontier_wire::chunk::Piece::Input(&text), fields).expect("what we write");
    assert_eq!(again.object(), data.object());
    assert_eq!(written(&again.object()), text);
}

fn written(object: &Object<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    object.put(&mut out);
    out
}
