//! Sessions of the SDK. An edge with small limits is connected to a gateway that says anything, while its user calls, publishes, opens
//! streams, offers methods, takes what comes, and gives up. Whatever happens: no panic, every operation is answered, bodies stay within
//! their budget, and once all is over the budget is whole.

use std::{
    future::{Future, IntoFuture},
    time::Duration,
};

use frontier::{
    Edge, IncomingStream, Message, Reconnect, Request, Stream,
    testing::pipes::{Pipes, inbound_left},
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType},
        head::{CallBuilder, Credit, ErrorRef, GoAway, Names, ReplyBuilder, Sender, encode_error_reply},
        hello::Welcome,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime,
    task::JoinSet,
    time::{advance, sleep, timeout},
};

use super::script::{Noise, Script};

/// Bytes of long bodies that peers may have under way.
const INBOUND: usize = 300_000;

pub fn run(data: &[u8]) {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be had").block_on(play(&mut Script::new(data)));
}

async fn play(script: &mut Script<'_>) {
    let mut noise = Noise::new(script.u8().into());
    let mut pipes = Pipes::new();
    let echo = |req: Request| async move { Ok(req.into_body()) };
    let wait = |req: Request| async move {
        req.cancelled().await;
        Ok(())
    };
    let builder = pipes.edge().method("m", echo).method("slow", wait).reconnect(Reconnect::never());
    let builder = builder.max_in_flight(4).message_queue(2).stream_backlog(2).max_streams(4).command_queue(4);
    let builder = builder.max_body(200_000).max_inbound_bytes(INBOUND).max_concurrent_handlers(2);
    let connecting = builder.call_timeout(Duration::from_secs(5)).connect();
    let mut connecting = std::pin::pin!(connecting);
    // The connection is made while the edge says Hello.
    let mut pipe = tokio::select! {
        biased;
        _ = &mut connecting => return,
        pipe = pipes.accept() => pipe.expect("the edge dials"),
    };
    let mut hello = Vec::new();
    welcome(script, &mut hello);
    if pipe.write_all(&hello).await.is_err() {
        return;
    }
    let edge = connecting.await.expect("what the edge is told can be read");
    let mut user = User { edge, asked: JoinSet::new(), messages: Vec::new(), streams: Vec::new() };
    while !script.is_over() {
        step(script, &mut noise, &mut pipe, &mut user).await;
        // Everybody does what there is to do.
        sleep(Duration::from_millis(1)).await;
        assert!(inbound_left(&user.edge) <= INBOUND);
    }
    drop(pipe);
    user.messages.clear();
    user.streams.clear();
    user.edge.close().await;
    let answered =
        timeout(Duration::from_secs(60), async { while user.asked.join_next().await.is_some() {} });
    assert!(answered.await.is_ok(), "an operation was never answered");
    while user.edge.receive().await.is_some() {}
    while user.edge.next_stream().await.is_some() {}
    sleep(Duration::from_millis(1)).await;
    assert_eq!(inbound_left(&user.edge), INBOUND, "bytes of bodies are held by nobody");
}

/// What the edge's user holds.
struct User {
    edge: Edge,
    /// Operations that wait for their outcome.
    asked: JoinSet<()>,
    messages: Vec<Message>,
    streams: Vec<Stream>,
}

async fn step(script: &mut Script<'_>, noise: &mut Noise, pipe: &mut DuplexStream, user: &mut User) {
    let mut bytes = Vec::new();
    match script.u8() % 16 {
        // Seldom: hardly any of it can be read, and what cannot ends the session.
        0 => {
            let len = script.u8().into();
            if script.u8() < 32 {
                say(pipe, script.take(len)).await;
            }
        }
        1..=8 => {
            yamux(script, noise, &mut bytes);
            let (front, rest) = bytes.split_at(usize::from(script.u8()).min(bytes.len()));
            say(pipe, front).await;
            sleep(Duration::from_millis(1)).await;
            say(pipe, rest).await;
        }
        9 => hear(pipe).await,
        10 => advance(Duration::from_millis(script.u16().into())).await,
        11 | 12 => user.ask(script, noise),
        13 => user.take().await,
        14 => user.use_stream(script, noise).await,
        _ => match script.u8() % 4 {
            0 => user.asked.abort_all(),
            1 => user.messages.clear(),
            2 => drop(user.streams.pop()),
            _ => {
                let edge = user.edge.clone();
                let name = NAMES[usize::from(script.u8()) % NAMES.len()];
                user.asked.spawn(async move { drop(edge.unregister(name).await) });
            }
        },
    }
}

/// The edge always reads: what does not go is for a session that is over.
async fn say(pipe: &mut DuplexStream, bytes: &[u8]) {
    drop(timeout(Duration::from_secs(1), pipe.write_all(bytes)).await);
}

async fn hear(pipe: &mut DuplexStream) {
    let mut buffer = vec![0; 64 << 10];
    drop(timeout(Duration::from_millis(1), pipe.read(&mut buffer)).await);
}

impl User {
    /// Starts an operation.
    fn ask(&mut self, script: &mut Script<'_>, noise: &mut Noise) {
        if self.asked.len() > 32 {
            return;
        }
        let (what, edge) = (script.u8(), self.edge.clone());
        let mut body = Vec::new();
        noise.fill(&mut body, script.usize() << (what >> 6));
        let name = NAMES[usize::from(what >> 2) % NAMES.len()];
        match what & 3 {
            0 => self.asked.spawn(async move { drop(edge.call(name, body).await) }),
            1 => self.asked.spawn(async move { drop(edge.publish(name, body).await) }),
            2 => self.asked.spawn(async move { drop(edge.open_stream(name).await) }),
            _ => self.asked.spawn(async move { drop(edge.register(name, |_| async { Ok("x") }).await) }),
        };
    }

    /// Takes a message and a stream if there are any.
    async fn take(&mut self) {
        if let Some(Some(message)) = at_once(self.edge.receive()).await {
            match message.body().len() % 3 {
                0 => drop(message.done().await),
                1 => drop(message.error("no").await),
                _ => self.messages.push(message),
            }
        }
        let incoming: Option<Option<IncomingStream>> = at_once(self.edge.next_stream()).await;
        if let Some(Some(incoming)) = incoming {
            if incoming.name() == "s" && self.streams.len() < 4 {
                self.streams.push(incoming.accept());
            } else {
                incoming.refuse("no");
            }
        }
    }

    async fn use_stream(&mut self, script: &mut Script<'_>, noise: &mut Noise) {
        let what = script.u8();
        let pick = usize::from(what >> 3) % self.streams.len().max(1);
        let Some(stream) = self.streams.get_mut(pick) else { return };
        match what & 7 {
            0 | 1 => drop(at_once(stream.read_bytes()).await),
            2 => {
                let mut bytes = Vec::new();
                noise.fill(&mut bytes, script.usize());
                drop(at_once(stream.write_bytes(bytes)).await);
            }
            3 => drop(at_once(stream.shutdown()).await),
            4 => stream.register("m", |_| async { Ok("x") }),
            5 => drop(at_once(stream.receive()).await),
            _ => {
                let call = stream.call("m", "x").into_future();
                if self.asked.len() <= 32 {
                    self.asked.spawn(async move { drop(call.await) });
                }
            }
        }
    }
}

/// What is there now.
async fn at_once<T>(what: impl Future<Output = T>) -> Option<T> {
    timeout(Duration::from_millis(1), what).await.ok()
}

/// Opens the session stream's direction towards the edge, and welcomes it.
fn welcome(script: &mut Script<'_>, out: &mut Vec<u8>) {
    let mut head = Vec::new();
    let welcome = Welcome {
        version: 1,
        features: 0,
        id: 7,
        epoch: 1,
        ticket: b"ticket".to_vec(),
        shards: 1,
        stream_window: 64 << 10,
        heartbeat_ms: 20_000,
        max_body: 1 << (script.u8() % 32),
        max_in_flight: u32::from(script.u8() % 8) + 1,
    };
    welcome.encode(&mut head);
    let header = FrameHeader::new(FrameType::Welcome, 0).with_lens(head.len(), 0).expect("it fits");
    let payload = [&header.encode()[..], &head].concat();
    // Data with ACK on stream 1.
    data(2, 1, &payload, out);
}

fn data(flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend([0, 0, 0, flags]);
    out.extend(stream.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
}

/// Methods, topics and names of streams.
const NAMES: [&str; 5] = ["m", "slow", "s", "t", "unknown"];

/// One yamux frame; mostly data of the session stream with a native frame in it.
fn yamux(script: &mut Script<'_>, noise: &mut Noise, out: &mut Vec<u8>) {
    let what = script.u8();
    let mut payload = Vec::new();
    match what {
        0..=159 => {
            frame(true, script, noise, &mut payload);
            data(0, 1, &payload, out);
        }
        // A stream of the gateway's, opened with its first bytes or used.
        160..=209 => {
            frame(false, script, noise, &mut payload);
            data(what & 1, u32::from(what >> 1 & 3) * 2 + 2, &payload, out);
        }
        // One that the edge may have opened; acknowledged, half closed or reset.
        210..=240 => {
            frame(false, script, noise, &mut payload);
            data([0, 2, 4, 8][usize::from(what & 3)], u32::from(what >> 2 & 3) * 2 + 3, &payload, out);
        }
        _ => {
            out.extend([0, what & 3, 0, script.u8() & 0xf]);
            out.extend(u32::from(script.u8()).to_be_bytes());
            out.extend(script.u32().to_be_bytes());
        }
    }
}

/// What a gateway may send on the session stream, and what belongs on a stream of its own.
const ON_SESSION: [u8; 10] = [0x04, 0x05, 0x06, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f];
const ON_STREAM: [u8; 10] = [0x11, 0x12, 0x12, 0x13, 0x0a, 0x0b, 0x0c, 0x09, 0x0d, 0x0e];

/// One native frame: seldom of a type that has no place there.
fn frame(session: bool, script: &mut Script<'_>, noise: &mut Noise, out: &mut Vec<u8>) {
    let what = script.u8();
    let kinds = if session { ON_SESSION } else { ON_STREAM };
    let kind = if what < 240 { kinds[usize::from(what) % kinds.len()] } else { what % 0x18 };
    let kind = FrameType::from_wire(kind);
    let (flags, id) = (script.u8() & script.u8(), u64::from(script.u8() % 12));
    let mut head = Vec::new();
    match kind {
        FrameType::Request | FrameType::Publish | FrameType::Open => {
            let name = NAMES[usize::from(script.u8()) % NAMES.len()];
            let total = u64::from(script.u8()) << 10;
            let call = CallBuilder::new(name).timeout_ms(script.u16().into()).sender(Sender::Service(3));
            call.total_len(if total & 1 << 10 == 0 { 0 } else { total }).encode(&mut head);
        }
        FrameType::Response | FrameType::Ack | FrameType::OpenAck => match script.u8() & 3 {
            0 | 1 => ReplyBuilder::new().encode(&mut head),
            2 => ReplyBuilder::new().total_len(script.u32().into()).encode(&mut head),
            _ => encode_error_reply(&mut head, ErrorCode::Application, "no"),
        },
        FrameType::Register => Names::encode(&mut head, ["m"], ["t"]),
        FrameType::Credit | FrameType::Cancel => Credit { bytes: script.u32() >> 8 }.encode(&mut head),
        FrameType::GoAway => {
            let reason = Some(ErrorRef::new(ErrorCode::GatewayDraining, "away"));
            GoAway { reconnect_in_ms: script.u16().into(), reason }.encode(&mut head);
        }
        _ => {
            let len = script.u8().into();
            head.extend(script.take(len));
        }
    }
    let body = usize::from(script.u16() & script.u16());
    let header = FrameHeader::new(kind, id).with_flags(Flags::from_bits(flags));
    let Ok(header) = header.with_lens(head.len(), body) else { return };
    out.extend(header.encode());
    out.extend(head);
    noise.fill(out, body);
}
