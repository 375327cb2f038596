//! The receiving half of the engine: bytes to events.

use super::{
    ACCEPTED, ACK, Breach, Chunk, Counts, Engine, Error, Event, FIN, FINISHED, Frame, GREW, GoAwayCode,
    HEADER_LEN, Header, Kind, LAST_ID, MAX_PENDING_RESETS, OPENED, RST, Rx, SYN, Stream, StreamId, as_count,
};

impl Engine {
    /// Takes the next event from the front of `input`; `None` when the input is used up. A frame that the end of the input cuts is
    /// continued with the next input, and its payload is handed out as far as it is there.
    ///
    /// Never waits for anything to be written, and allocates only for streams: at most `Config::max_streams` of them.
    ///
    /// # Errors
    ///
    /// If the peer broke the protocol: the connection must end. Every later call returns the same error.
    #[inline]
    pub fn receive<B: Chunk>(&mut self, input: &mut B) -> Result<Option<Event<B>>, Error> {
        match self.take_whole(input) {
            None => self.receive_any(input),
            event => Ok(event),
        }
    }

    /// The common case ahead of all others: a data frame without flags that is there to its last byte. Anything else is left to
    /// [`Engine::receive_any`], untouched.
    #[inline]
    fn take_whole<B: Chunk>(&mut self, input: &mut B) -> Option<Event<B>> {
        if !matches!(self.rx, Rx::Border) {
            return None;
        }
        let header = Header::parse_plain_data(input.first_chunk()?)?;
        let len = as_count(header.length);
        if len == 0 || header.length > self.max_frame || input.len().checked_sub(HEADER_LEN)? < len {
            return None;
        }
        let stream = StreamId::new(header.stream)?;
        self.get_mut(stream)?.take_in(header.length).ok()?;
        input.skip(HEADER_LEN);
        Some(Event::Data { stream, payload: input.take_front(len) })
    }

    fn receive_any<B: Chunk>(&mut self, input: &mut B) -> Result<Option<Event<B>>, Error> {
        loop {
            let header = match &mut self.rx {
                Rx::Border => {
                    let Some(bytes) = input.first_chunk() else {
                        if input.is_empty() {
                            return Ok(None);
                        }
                        self.rx = Rx::Header { have: 0, bytes: [0; HEADER_LEN] };
                        continue;
                    };
                    let header = Header::parse(bytes);
                    input.skip(HEADER_LEN);
                    header
                }
                Rx::Header { have, bytes } => {
                    if !gather(have, bytes, input) {
                        return Ok(None);
                    }
                    let header = Header::parse(bytes);
                    self.rx = Rx::Border;
                    header
                }
                Rx::Frame(frame) => {
                    let event = frame.next(input);
                    let over = frame.is_over();
                    if over {
                        self.rx = Rx::Border;
                    }
                    match event {
                        Some(Event::Finished { stream }) => {
                            self.end_remote(stream);
                            return Ok(Some(Event::Finished { stream }));
                        }
                        None if over => continue,
                        event => return Ok(event),
                    }
                }
                Rx::Failed(error) => return Err(*error),
            };
            match header.and_then(|header| self.begin(header)) {
                Ok(None) => {}
                Ok(event) => return Ok(event),
                Err(error) => {
                    self.rx = Rx::Failed(error);
                    return Err(error);
                }
            }
        }
    }

    /// Payload bytes of the current data frame still to come, and whose they are: a driver may read them from the socket straight
    /// into the buffer where they belong, and then say [`Engine::received_direct`]. Only after [`Engine::receive`] returned `None`.
    #[must_use]
    pub fn direct(&self) -> Option<(StreamId, u32)> {
        match self.rx {
            Rx::Frame(Frame { stream: Some(stream), left, todo }) if left > 0 && todo & !FINISHED == 0 => {
                Some((stream, left))
            }
            Rx::Frame(_) | Rx::Border | Rx::Header { .. } | Rx::Failed(_) => None,
        }
    }

    /// `n` bytes of payload were read as [`Engine::direct`] allows, at most as many as it said. When the frame is complete its end may
    /// be an event: call [`Engine::receive`] afterwards, even without input.
    pub const fn received_direct(&mut self, n: u32) {
        if let Rx::Frame(frame) = &mut self.rx {
            frame.left = frame.left.saturating_sub(n);
            if frame.is_over() {
                self.rx = Rx::Border;
            }
        }
    }

    /// Acts on a header.
    #[inline]
    fn begin<B>(&mut self, header: Header) -> Result<Option<Event<B>>, Error> {
        match header.kind {
            Kind::Data if header.length > self.max_frame => {
                Err(Error::FrameTooLong { len: header.length, max: self.max_frame })
            }
            Kind::Data | Kind::Window if header.has(SYN) => self.on_open(header).map(|()| None),
            Kind::Data | Kind::Window => self.on_stream(header),
            Kind::Ping => {
                self.counts.add_control();
                if header.has(SYN) {
                    self.control_mut().pong = Some(header.length);
                    Ok(None)
                } else {
                    Ok(Some(Event::Pong { value: header.length }))
                }
            }
            Kind::GoAway => {
                self.counts.add_control();
                self.leaving.remote = true;
                Ok(Some(Event::GoAway { code: GoAwayCode::from_wire(header.length) }))
            }
        }
    }

    /// A frame of a stream that should be open.
    #[inline]
    fn on_stream<B>(&mut self, header: Header) -> Result<Option<Event<B>>, Error> {
        let Some(stream) = StreamId::new(header.stream) else { return Err(Error::StreamId { id: 0 }) };
        let Some(state) = self.get_mut(stream) else { return self.on_stray(header).map(|()| None) };
        if header.has(RST) {
            self.counts.add_control();
            self.remove(stream);
            self.skip_payload(header);
            return Ok(Some(Event::Reset { stream }));
        }
        let mut frame = Frame { stream: Some(stream), left: 0, todo: 0 };
        if header.has(ACK) && state.acknowledge() {
            frame.todo |= ACCEPTED;
        }
        if header.has(FIN) && !state.has_remote_end() {
            frame.todo |= FINISHED;
        }
        frame.left = header.length;
        if header.kind == Kind::Data {
            state.take_in(header.length).map_err(|breach| breach.error(stream, header.length))?;
            if header.length == 0 {
                self.counts.add_control();
            }
        } else {
            let overflow = Error::WindowOverflow { stream, grown_by: header.length };
            state.widen_send(header.length).ok_or(overflow)?;
            if header.length > 0 {
                frame.todo |= GREW;
            }
            self.counts.add_control();
        }
        self.enter(frame);
        Ok(None)
    }

    /// A frame with SYN.
    fn on_open(&mut self, header: Header) -> Result<(), Error> {
        self.counts.add_control();
        let id = header.stream;
        let stream = StreamId::new(id)
            .filter(|_| self.role.peer().owns(id) && id <= LAST_ID)
            .ok_or(Error::StreamId { id })?;
        self.use_id(id)?;
        if header.has(RST) {
            self.skip_payload(header);
            return Ok(());
        }
        if self.pending_resets() >= MAX_PENDING_RESETS {
            return Err(Error::Flood);
        }
        if self.leaving.local || self.remote_streams() >= as_count(self.max_streams) {
            self.counts.refused = self.counts.refused.saturating_add(1);
            self.control_mut().resets.push(id);
            self.skip_payload(header);
            return Ok(());
        }
        let [start, recv, send] = self.start_windows(stream);
        let mut state = Stream::accepted(start, recv, send);
        let mut frame = Frame { stream: Some(stream), left: 0, todo: OPENED };
        if header.has(FIN) {
            frame.todo |= FINISHED;
        }
        if header.kind == Kind::Data {
            state.take_in(header.length).map_err(|breach| breach.error(stream, header.length))?;
            frame.left = header.length;
        } else {
            let overflow = Error::WindowOverflow { stream, grown_by: header.length };
            state.widen_send(header.length).ok_or(overflow)?;
        }
        self.insert(stream, state);
        self.enter(frame);
        Ok(())
    }

    /// A frame without SYN for a stream that is not open. It may have crossed our reset; and some peers drop a stream that they never
    /// announced by announcing its end. Answering by RST would help nobody: the peer knows, or will know from what is under way.
    fn on_stray(&mut self, header: Header) -> Result<(), Error> {
        let id = header.stream;
        if self.role.owns(id) && id >= self.next_local {
            return Err(Error::StreamId { id });
        }
        self.counts.add_control();
        if header.has(FIN | RST) && self.role.peer().owns(id) {
            // The end of a stream that was never announced uses up its ID; of any other stream it changes nothing.
            let _ = self.use_id(id);
        }
        self.skip_payload(header);
        Ok(())
    }

    /// Notes that the peer uses an ID that it has not used before.
    fn use_id(&mut self, id: u32) -> Result<(), Error> {
        let next = self.next_remote;
        if id >= next {
            if id > next {
                self.table_mut().gaps.skip(next..=id.saturating_sub(2));
            }
            self.next_remote = id.saturating_add(2);
            return Ok(());
        }
        if !self.table.as_mut().is_some_and(|table| table.gaps.take(id)) {
            return Err(Error::Reused { id });
        }
        self.free_table();
        Ok(())
    }

    fn end_remote(&mut self, stream: StreamId) {
        let over = self.update(stream, |stream| {
            stream.end_remote();
            stream.is_over()
        });
        if over == Some(true) {
            self.remove(stream);
        }
    }

    fn skip_payload(&mut self, header: Header) {
        let left = if header.kind == Kind::Data { header.length } else { 0 };
        self.enter(Frame { stream: None, left, todo: 0 });
    }

    #[inline]
    fn enter(&mut self, frame: Frame) {
        if !frame.is_over() {
            self.rx = Rx::Frame(frame);
        }
    }
}

/// Adds input to a header; true if it is complete.
fn gather(have: &mut u8, bytes: &mut [u8; HEADER_LEN], input: &mut impl Chunk) -> bool {
    let rest = bytes.get_mut(usize::from(*have)..).unwrap_or_default();
    let wanted = rest.len();
    let piece = input.take_front(wanted);
    for (byte, from) in rest.iter_mut().zip(piece.iter()) {
        *byte = *from;
        *have = have.saturating_add(1);
    }
    piece.len() == wanted
}

// === impl Frame ===

impl Frame {
    const fn is_over(&self) -> bool {
        self.left == 0 && self.todo == 0
    }

    /// The next event of the frame; `None` if it is over or the input is used up.
    #[inline]
    fn next<B: Chunk>(&mut self, input: &mut B) -> Option<Event<B>> {
        let Some(stream) = self.stream else {
            let n = input.len().min(as_count(self.left));
            input.skip(n);
            self.pass(n);
            return None;
        };
        if self.todo & (OPENED | ACCEPTED | GREW) != 0 {
            return Some(self.announce(stream));
        }
        if self.left > 0 {
            if input.is_empty() {
                return None;
            }
            let payload = input.take_front(as_count(self.left));
            self.pass(payload.len());
            return Some(Event::Data { stream, payload });
        }
        self.todo = 0;
        Some(Event::Finished { stream })
    }

    /// What comes before the payload. At least one bit is set.
    fn announce<B>(&mut self, stream: StreamId) -> Event<B> {
        if self.todo & OPENED != 0 {
            self.todo &= !OPENED;
            Event::Opened { stream }
        } else if self.todo & ACCEPTED != 0 {
            self.todo &= !ACCEPTED;
            Event::Accepted { stream }
        } else {
            self.todo &= !GREW;
            Event::Window { stream, grown_by: std::mem::take(&mut self.left) }
        }
    }

    /// `n` bytes, at most those that are left, are through.
    fn pass(&mut self, n: usize) {
        self.left = self.left.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
    }
}

// === impl Breach ===

impl Breach {
    const fn error(self, stream: StreamId, len: u32) -> Error {
        match self {
            Self::Window => Error::Window { stream, len },
            Self::AfterEnd => Error::AfterEnd { stream },
        }
    }
}

// === impl Counts ===

impl Counts {
    const fn add_control(&mut self) {
        self.control = self.control.saturating_add(1);
    }
}
