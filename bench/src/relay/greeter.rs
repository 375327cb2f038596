//! The bare accept-read-write server.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Result;
use slab::Slab;
use socket2::Socket;

use crate::net::{self, Poller};

const LISTENER: u64 = u64::MAX;
/// Longest hello and answer in bytes: both fit a fresh socket's buffer, so an answer is always written at once.
const LONGEST: usize = 4096;

/// See [`crate::relay`].
#[derive(Debug)]
pub struct Greeter {
    poller: Poller,
    listener: Socket,
    guests: Slab<Guest>,
    hello: usize,
    answer: Box<[u8]>,
    buffer: Box<[u8]>,
    over: Vec<usize>,
}

#[derive(Debug)]
struct Guest {
    socket: TcpStream,
    /// Bytes of the hello still to come.
    missing: usize,
}

// === impl Greeter ===

impl Greeter {
    /// Listens; every guest says `hello` bytes and gets `answer`, both at most 4 KiB.
    ///
    /// # Errors
    /// If the port is taken or a length is too long.
    pub fn bind(listen: SocketAddr, hello: usize, answer: Vec<u8>) -> Result<Self> {
        anyhow::ensure!(
            hello <= LONGEST && answer.len() <= LONGEST,
            "hello and answer have at most {LONGEST} bytes"
        );
        let poller = Poller::new()?;
        let listener = net::listen(listen)?;
        poller.add(&listener, LISTENER, net::LISTENER)?;
        Ok(Self {
            poller,
            listener,
            guests: Slab::new(),
            hello,
            answer: answer.into_boxed_slice(),
            buffer: vec![0; LONGEST].into_boxed_slice(),
            over: Vec::new(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As of the kernel.
    pub fn addr(&self) -> Result<SocketAddr> {
        net::local_addr(&self.listener)
    }

    /// Guests that are held.
    #[must_use]
    pub fn guests(&self) -> usize {
        self.guests.len()
    }

    /// Waits for events and serves them.
    ///
    /// # Errors
    /// If the kernel runs out of descriptors.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<()> {
        self.poller.wait(timeout)?;
        for index in 0..self.poller.len() {
            let ready = self.poller.event(index);
            if ready.token == LISTENER {
                self.accept()?;
            } else if ready.readable {
                let key = ready.token as usize;
                let Some(guest) = self.guests.get_mut(key) else { continue };
                if !guest.serve(&mut self.buffer, &self.answer, ready.closed) && !self.over.contains(&key) {
                    self.over.push(key);
                }
            }
        }
        for key in self.over.drain(..) {
            self.guests.remove(key);
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(socket) = net::accept(&self.listener)? {
            let key = self.guests.insert(Guest { socket, missing: self.hello });
            self.poller.add(&self.guests[key].socket, key as u64, net::SOCKET)?;
        }
        Ok(())
    }
}

// === impl Guest ===

impl Guest {
    /// Whether to keep the guest.
    fn serve(&mut self, buffer: &mut [u8], answer: &[u8], to_the_end: bool) -> bool {
        loop {
            match (&self.socket).read(buffer) {
                Ok(0) => return false,
                Ok(read) => {
                    if self.missing > 0 {
                        self.missing = self.missing.saturating_sub(read);
                        if self.missing == 0 && !(&self.socket).write(answer).is_ok_and(|n| n == answer.len())
                        {
                            return false;
                        }
                    }
                    if read < buffer.len() && !to_the_end {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}
