//! Calls and messages of a peer, in both directions, with fragments and credit.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameType, INITIAL_CREDIT, MAX_BODY_FRAME},
        proto,
    },
};
use prost::Message;

use super::{Answer, Frame, Incoming, Peer, Refusal, error};

/// A body on its way out.
#[derive(Debug)]
pub(super) struct Transfer {
    rest: Bytes,
    credit: usize,
}

/// A body on its way in.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Peer {
    /// Starts a call of a method.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn request(&mut self, method: &str, body: &[u8]) -> anyhow::Result<u64> {
        let call = proto::Call { name: method.to_owned(), ..proto::Call::default() };
        self.start(FrameType::Request, call, body)
    }

    /// Starts a call of a method of an edge.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn request_edge(&mut self, edge: u64, method: &str, body: &[u8]) -> anyhow::Result<u64> {
        let call = proto::Call { name: method.to_owned(), edge, ..proto::Call::default() };
        self.start(FrameType::Request, call, body)
    }

    /// Calls a method and waits for the answer.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn call(&mut self, method: &str, body: &[u8], within: Duration) -> anyhow::Result<Answer> {
        let id = self.request(method, body)?;
        self.answer(id, within)
    }

    /// Publishes to a topic and waits for the acknowledgement.
    ///
    /// # Errors
    /// When none comes.
    pub fn publish(&mut self, topic: &str, body: &[u8], within: Duration) -> anyhow::Result<Answer> {
        let call = proto::Call { name: topic.to_owned(), ..proto::Call::default() };
        let id = self.start(FrameType::Publish, call, body)?;
        self.answer(id, within)
    }

    /// Starts a Request or Publish; a long body goes in fragments as credit comes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn start(&mut self, kind: FrameType, mut call: proto::Call, body: &[u8]) -> anyhow::Result<u64> {
        let id = self.new_id();
        if body.len() > MAX_BODY_FRAME as usize {
            call.total_len = body.len() as u64;
        }
        self.send_body(kind, id, &call.encode_to_vec(), body)?;
        Ok(id)
    }

    /// Waits for the answer to an operation.
    ///
    /// # Errors
    /// When none comes.
    pub fn answer(&mut self, to: u64, within: Duration) -> anyhow::Result<Answer> {
        self.wait(&format!("answer to {to}"), within, |incoming| match incoming {
            Incoming::Answer { id, answer } if *id == to => Some(answer.clone()),
            _ => None,
        })
    }

    /// Answers a call.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn respond(&mut self, id: u64, body: &[u8]) -> anyhow::Result<()> {
        let total_len = if body.len() > MAX_BODY_FRAME as usize { body.len() as u64 } else { 0 };
        let reply = proto::Reply { total_len, ..proto::Reply::default() };
        self.send_body(FrameType::Response, id, &reply.encode_to_vec(), body)
    }

    /// Acknowledges a message.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn ack(&mut self, id: u64) -> anyhow::Result<()> {
        self.wire.frame(FrameType::Ack, Flags::NONE, id, &[], &[])
    }

    /// Answers with an error; `kind` is Response or Ack.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn fail(&mut self, kind: FrameType, id: u64, code: ErrorCode, text: &str) -> anyhow::Result<()> {
        let reply = proto::Reply { error: Some(error(code, text)), ..proto::Reply::default() };
        self.send(kind, id, &reply, &[])
    }

    /// Tells that nobody waits for an operation any more.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn cancel(&mut self, id: u64) -> anyhow::Result<()> {
        self.transfers.remove(&(FrameType::Request, id));
        self.transfers.remove(&(FrameType::Publish, id));
        self.wire.frame(FrameType::Cancel, Flags::NONE, id, &[], &[])
    }

    /// Gives up in the middle of a body of our own that is on its way, and says why.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn abort(&mut self, kind: FrameType, id: u64, code: ErrorCode, text: &str) -> anyhow::Result<()> {
        ensure!(self.transfers.remove(&(kind, id)).is_some(), "no body of {}#{id} is under way", kind.name());
        let why = Some(error(code, text));
        let head = match kind {
            FrameType::Response => proto::Reply { error: why, ..proto::Reply::default() }.encode_to_vec(),
            _ => proto::Call { error: why, ..proto::Call::default() }.encode_to_vec(),
        };
        self.wire.frame(kind, Flags::ABORT, id, &head, &[])
    }

    /// IDs of the operations and answers whose bodies have come in part, and how many bytes of each.
    #[must_use]
    pub fn unfinished(&self) -> Vec<(u64, usize)> {
        self.assemblies.iter().map(|((_, id), assembly)| (*id, assembly.body.len())).collect()
    }

    /// The next operation that comes.
    ///
    /// # Errors
    /// When none comes within the time.
    pub fn operation(&mut self, within: Duration) -> anyhow::Result<(u64, proto::Call, Vec<u8>)> {
        self.wait("operation", within, |incoming| match incoming {
            Incoming::Operation { id, call, body, aborted: false, .. } => {
                Some((*id, call.clone(), body.clone()))
            }
            _ => None,
        })
    }

    fn send_body(&mut self, kind: FrameType, id: u64, head: &[u8], body: &[u8]) -> anyhow::Result<()> {
        if body.len() <= MAX_BODY_FRAME as usize {
            return self.wire.frame(kind, Flags::NONE, id, head, body);
        }
        let mut rest = Bytes::copy_from_slice(body);
        let first = rest.split_to(MAX_BODY_FRAME as usize);
        self.wire.frame(kind, Flags::MORE, id, head, &first)?;
        let transfer = Transfer { rest, credit: (INITIAL_CREDIT - MAX_BODY_FRAME) as usize };
        self.transfers.insert((kind, id), transfer);
        self.go_on(kind, id)
    }

    /// Sends the fragments that the credit covers.
    fn go_on(&mut self, kind: FrameType, id: u64) -> anyhow::Result<()> {
        while let Some(transfer) = self.transfers.get_mut(&(kind, id)) {
            let len = transfer.rest.len().min(transfer.credit).min(MAX_BODY_FRAME as usize);
            if len == 0 {
                return Ok(());
            }
            transfer.credit -= len;
            let piece = transfer.rest.split_to(len);
            let more = !transfer.rest.is_empty();
            if !more {
                self.transfers.remove(&(kind, id));
            }
            self.wire.frame(kind, if more { Flags::MORE } else { Flags::NONE }, id, &[], &piece)?;
        }
        Ok(())
    }

    /// Credit for one of our bodies; false if there is none, or no longer.
    pub(super) fn on_credit(&mut self, frame: &Frame) -> anyhow::Result<bool> {
        let bytes = frame.head_as::<proto::Credit>()?.bytes as usize;
        let kinds: &[FrameType] = if frame.flags.reply() {
            &[FrameType::Response]
        } else {
            &[FrameType::Request, FrameType::Publish]
        };
        let Some(kind) = kinds.iter().copied().find(|kind| self.transfers.contains_key(&(*kind, frame.id)))
        else {
            return Ok(false);
        };
        if let Some(transfer) = self.transfers.get_mut(&(kind, frame.id)) {
            transfer.credit += bytes;
        }
        self.go_on(kind, frame.id)?;
        Ok(true)
    }

    /// A frame that carries a body or a part of one.
    pub(super) fn on_body(&mut self, frame: Frame) -> anyhow::Result<()> {
        let key = (frame.kind, frame.id);
        let mut assembly = self.assemblies.remove(&key).unwrap_or_default();
        let answer = matches!(frame.kind, FrameType::Response | FrameType::Ack);
        if frame.flags.abort() || assembly.head.is_empty() {
            assembly.head.clone_from(&frame.head);
        } else {
            ensure!(frame.head.is_empty(), "a continuing fragment with a head: {frame:?}");
        }
        assembly.body.extend_from_slice(&frame.body);
        if frame.flags.more() {
            self.assemblies.insert(key, assembly);
            let flags = if answer { Flags::REPLY } else { Flags::NONE };
            return if self.grants_credit { self.grant(frame.id, flags, frame.body.len()) } else { Ok(()) };
        }
        let (id, kind, body, aborted) = (frame.id, frame.kind, assembly.body, frame.flags.abort());
        let incoming = if answer {
            let reply = proto::Reply::decode(assembly.head.as_slice()).context("head of an answer")?;
            ensure!(!aborted || reply.error.is_some(), "aborted without an error");
            // An answer before the last fragment ends the transfer.
            self.transfers.remove(&(FrameType::Request, id));
            self.transfers.remove(&(FrameType::Publish, id));
            let answer = reply.error.as_ref().map_or(Ok(body), |error| Err(Refusal::from_proto(error)));
            Incoming::Answer { id, answer }
        } else {
            let call = proto::Call::decode(assembly.head.as_slice()).context("head of an operation")?;
            Incoming::Operation { kind, id, call, body, aborted }
        };
        self.inbox.push_back(incoming);
        Ok(())
    }

    /// Grants bytes of a body; `flags` say whether it is an answer's.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn grant(&mut self, id: u64, flags: Flags, bytes: usize) -> anyhow::Result<()> {
        let head = proto::Credit { bytes: u32::try_from(bytes)? }.encode_to_vec();
        self.wire.frame(FrameType::Credit, flags, id, &head, &[])
    }
}
