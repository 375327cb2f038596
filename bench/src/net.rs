//! Sockets and the process around them: the epoll set shared by relay and load, pinning, descriptor limits.

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    net::SocketFlags,
    process::{Resource, Rlimit, Signal},
    thread::{CpuSet, sched_setaffinity},
};
use socket2::{Domain, SockRef, Socket, Type};

/// Connections that may wait to be accepted. Storms connect thousands at once; the kernel caps it at `somaxconn`.
const BACKLOG: i32 = 8_192;

/// What a socket is watched for: everything, once, edge-triggered.
pub const SOCKET: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
/// What a listener is watched for; level-triggered, so that an accept loop may stop early.
pub const LISTENER: EventFlags = EventFlags::IN;

/// Events taken at once.
const EVENTS: usize = 1024;

/// An epoll set with the events of its last wait.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    ready: Vec<Ready>,
}

/// What happened on a socket.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The token it was added with.
    pub token: u64,
    /// There may be something to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The other side has closed or the connection is broken: read to the end.
    pub closed: bool,
}

// === impl Poller ===

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// If descriptors have run out.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, ready: Vec::with_capacity(EVENTS) })
    }

    /// Watches a socket until it is closed.
    ///
    /// # Errors
    /// As of the kernel.
    pub fn add(&self, fd: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), flags)?)
    }

    /// Waits for events, for ever without `timeout`. An interrupted wait is an empty one.
    ///
    /// # Errors
    /// As of the kernel.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        self.ready.clear();
        let mut buffer = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        match epoll::wait(&self.epoll, &mut buffer[..], timeout.as_ref()) {
            Ok((events, _)) => self.ready.extend(events.iter().map(Ready::of)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Events of the last wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ready.len()
    }

    /// Whether the last wait found nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// One of the events of the last wait.
    #[must_use]
    pub fn event(&self, index: usize) -> Ready {
        self.ready[index]
    }
}

// === impl Ready ===

impl Ready {
    fn of(event: &Event) -> Self {
        let Event { flags, data } = *event;
        let closed = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        Self {
            token: data.u64(),
            readable: flags.contains(EventFlags::IN) || closed,
            writable: flags.contains(EventFlags::OUT),
            closed,
        }
    }
}

/// Runs this thread, and all that it starts, on one CPU.
///
/// # Errors
/// If there is no such CPU for us.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("pin to CPU {cpu}"))
}

/// Raises the number of descriptors to what the machine allows and returns it.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_descriptors() -> Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).context("raise the descriptor limit")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Makes the kernel kill this process when the one that started it ends, however it ends. Survives `exec`.
///
/// # Errors
/// If the kernel refuses.
pub fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("ask for the parent's death")
}

/// Begins to connect, from a given address if one is given. Ready for writing when connected.
///
/// # Errors
/// If descriptors or ports have run out, or nobody can be reached at all.
pub fn dial(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// From now on closing the socket resets the connection. A fleet that closes in good order leaves thousands of ports waiting for a
/// minute, and the kernel then searches long for free ones, which would be measured in the next run.
///
/// # Errors
/// As of the kernel.
pub fn reset_on_close(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Listens, without blocking.
///
/// # Errors
/// If the port is taken.
pub fn listen(at: SocketAddr) -> Result<Socket> {
    let bind = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    bind().with_context(|| format!("listen at {at}"))
}

/// Where a socket listens.
///
/// # Errors
/// If it is none of the Internet's.
pub fn local_addr(socket: &Socket) -> Result<SocketAddr> {
    socket.local_addr()?.as_socket().context("not an Internet socket")
}

/// The next connection, without blocking; `None` when there is none.
///
/// # Errors
/// If descriptors have run out.
pub fn accept(listener: &Socket) -> io::Result<Option<TcpStream>> {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(fd) => return Ok(Some(fd.into())),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
