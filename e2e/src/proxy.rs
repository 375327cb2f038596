//! A TCP proxy that can fall silent: what a peer looks like whose cable was pulled or whose NAT entry was lost. Nothing is closed, and
//! nothing gets through. When the cable is back, what was under way arrives late, as TCP has it.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::wait::pause;

/// How often the threads look whether they should end.
const LOOK: Duration = Duration::from_millis(20);

/// See the module documentation. Dropping it closes its connections.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    frozen: AtomicBool,
    stopped: AtomicBool,
}

// === impl Proxy ===

impl Proxy {
    /// Passes connections on to `target`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || accept(&listener, target, &shared));
        Ok(Self { addr, state, acceptor: Some(acceptor) })
    }

    /// Where to connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on nothing gets through, no end of a connection either.
    pub fn freeze(&self) {
        self.state.frozen.store(true, Ordering::Release);
    }

    /// Everything gets through again, what has waited first.
    pub fn thaw(&self) {
        self.state.frozen.store(false, Ordering::Release);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Release);
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, state: &Arc<State>) {
    let mut pumps = Vec::new();
    while !state.stopped.load(Ordering::Acquire) {
        // Whoever connects meanwhile waits.
        let near = if state.frozen.load(Ordering::Acquire) { None } else { listener.accept().ok() };
        let Some((near, _)) = near else {
            pause(LOOK);
            continue;
        };
        let Ok(far) = TcpStream::connect(target) else { continue };
        let Ok(pair) = both_ways(near, far) else { continue };
        for (from, to) in pair {
            let state = Arc::clone(state);
            pumps.push(std::thread::spawn(move || pump(from, to, &state)));
        }
    }
    for pump in pumps {
        drop(pump.join());
    }
}

fn both_ways(near: TcpStream, far: TcpStream) -> io::Result<[(TcpStream, TcpStream); 2]> {
    for socket in [&near, &far] {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(LOOK))?;
    }
    Ok([(near.try_clone()?, far.try_clone()?), (far, near)])
}

/// Carries bytes one way. In the silence the sockets stay open, whatever their ends do.
fn pump(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    while !state.stopped.load(Ordering::Acquire) {
        let frozen = || state.frozen.load(Ordering::Acquire) && !state.stopped.load(Ordering::Acquire);
        if frozen() {
            pause(LOOK);
            continue;
        }
        let read = from.read(&mut buffer);
        // What came in the moment the silence began waits as well.
        while frozen() {
            pause(LOOK);
        }
        match read {
            Ok(0) => {
                drop(to.shutdown(Shutdown::Write));
                return;
            }
            Ok(n) => {
                let Some(bytes) = buffer.get(..n) else { return };
                if to.write_all(bytes).is_err() {
                    // The other direction ends as well: its peer is gone.
                    drop(from.shutdown(Shutdown::Both));
                    return;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => {
                drop(to.shutdown(Shutdown::Both));
                return;
            }
        }
    }
}
