//! The start of a session: Hello goes out, Welcome, Reject or GoAway comes back.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use frontier_wire::{
    native::{
        connection::{Connection, Event, Input},
        frame::{FrameHeader, FrameType},
        head::{ErrorRef, GoAway},
        hello::{Hello, Welcome},
        limits::FrameLimits,
        reader::Frame,
    },
    yamux::Config,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    error::{ConnectError, Error, ErrorCode},
    transport::Io,
};

/// Longest head of Hello in bytes: what fits into one yamux frame, with room to spare. Methods and topics beyond it follow by Register.
pub(crate) const HELLO_MAX: usize = 60_000;

/// A connection that was welcomed, and what had been read behind the Welcome.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(crate) io: Io,
    pub(crate) conn: Connection,
    pub(crate) welcome: Welcome,
    pub(super) rest: Input<Bytes>,
}

/// Introduces this client on a new connection. The caller limits the time.
pub(crate) async fn greet(mut io: Io, hello: &Hello, config: &Config) -> Result<Greeted, ConnectError> {
    let mut head = Vec::with_capacity(hello.encoded_len());
    hello.encode(&mut head);
    if head.len() > HELLO_MAX {
        return Err(ConnectError::TooLong {
            what: "meta, labels, token and names",
            len: head.len(),
            max: HELLO_MAX,
        });
    }
    let mut conn = Connection::dial(config);
    conn.send(FrameHeader::new(FrameType::Hello, 0), &head, &[]);
    write_all(&mut io, &mut conn).await.map_err(ConnectError::Lost)?;
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(4_096);
        if io.read_buf(&mut buffer).await.map_err(ConnectError::Lost)? == 0 {
            return Err(ConnectError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut input = Input::new(buffer.split().freeze());
        let broken = |error: &dyn std::error::Error| ConnectError::Protocol(error.to_string());
        while let Some(event) =
            conn.receive(&mut input, &FrameLimits::DIALER).map_err(|error| broken(&error))?
        {
            match event {
                Event::Frame(frame) => {
                    if let Some(welcome) = answer(&frame)? {
                        conn.engine_mut().set_stream_windows(hello.stream_window, welcome.stream_window);
                        return Ok(Greeted { io, conn, welcome, rest: input });
                    }
                }
                Event::Ended => return Err(ConnectError::Lost(io::ErrorKind::UnexpectedEof.into())),
                _ => return Err(ConnectError::Protocol("a user stream before Welcome".into())),
            }
        }
        // What a connection that is not welcomed yet has to say is an acknowledgement at most.
        write_all(&mut io, &mut conn).await.map_err(ConnectError::Lost)?;
    }
}

/// What a frame means before Welcome: `None` for types that this version does not know.
fn answer(frame: &Frame<Bytes>) -> Result<Option<Welcome>, ConnectError> {
    let broken = |error: &dyn std::error::Error| ConnectError::Protocol(error.to_string());
    match frame.header.kind {
        FrameType::Welcome => Welcome::decode(&frame.head).map(Some).map_err(|error| broken(&error)),
        FrameType::Reject => {
            let error = ErrorRef::parse(&frame.head).map_err(|error| broken(&error))?;
            Err(ConnectError::Rejected(Error::from_wire(error)))
        }
        FrameType::GoAway => {
            let away = GoAway::parse(&frame.head).map_err(|error| broken(&error))?;
            Err(ConnectError::SentAway(sent_away(&away)))
        }
        FrameType::Unknown(_) => Ok(None),
        kind => Err(ConnectError::Protocol(format!("{} before Welcome", kind.name()))),
    }
}

/// A GoAway as an error: its reason, with the time to come again.
pub(super) fn sent_away(away: &GoAway<'_>) -> Error {
    let reason = away.reason.map(Error::from_wire);
    let error = reason.unwrap_or_else(|| Error::new(ErrorCode::GatewayDraining, ""));
    error.retry_in(Duration::from_millis(away.reconnect_in_ms.into()))
}

async fn write_all(io: &mut Io, conn: &mut Connection) -> io::Result<()> {
    while conn.wants_write() {
        conn.fill(usize::MAX);
        let mut slices = Vec::new();
        conn.slices(&mut slices, 64);
        if slices.is_empty() {
            break;
        }
        let n = io.write_vectored(&slices).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        conn.written(n, |_, _| {});
    }
    io.flush().await
}
