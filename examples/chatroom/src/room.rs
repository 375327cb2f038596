//! The room: hears who comes and goes, and passes on what members say.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context;
use frontier::{EdgeId, EdgeInfo, Error, ErrorCode, Message, Request, Service, State};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    select,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    HEAR, SAY, WHO,
    members::{Changes, Members},
    name::Name,
    out::say,
    printable,
};

/// Lines that wait for a member. One who does not keep up misses what comes beyond.
const BACKLOG: usize = 64;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// See the module documentation.
struct Room {
    service: Service,
    door: Mutex<Door>,
}

#[derive(Default)]
struct Door {
    members: Members,
    lines: HashMap<EdgeId, Line>,
}

/// The way to one member: what is slow for one delays nobody else.
struct Line {
    outbox: mpsc::Sender<String>,
    _task: AbortOnDropHandle<()>,
}

pub(crate) async fn run(gateway: &str) -> anyhow::Result<()> {
    let service = Service::builder(gateway)
        .name("chatroom")
        .connect()
        .await
        .with_context(|| format!("cannot connect to the gateway at {gateway}"))?;
    let room = Arc::new(Room { service: service.clone(), door: Mutex::default() });
    let mut state = service.watch();
    let mut interrupts = signal(SignalKind::interrupt())?;
    room.open().await.context("the room cannot be opened")?;
    say("the room is open; Ctrl-C closes it");
    loop {
        select! {
            Some(message) = service.receive() => room.hear(message).await,
            Some(state) = state.changed() => {
                say(format!("gateway: {state}"));
                match state {
                    // Nobody told us who came and went meanwhile.
                    State::Ready { .. } => room.look_around().await,
                    State::Closed { .. } => break,
                    _ => {}
                }
            }
            _ = interrupts.recv() => break,
        }
    }
    room.close().await;
    service.close().await;
    say("the room is closed");
    Ok(())
}

// === impl Room ===

impl Room {
    /// Watches the door first, then asks who is inside, and takes what they say only when it knows them.
    async fn open(self: &Arc<Self>) -> frontier::Result<()> {
        let room = self.clone();
        self.service.on_edge_online(move |edge| std::future::ready(room.enter(&edge))).await?;
        let room = self.clone();
        self.service
            .on_edge_offline(move |edge| {
                room.leave(&edge);
                std::future::ready(())
            })
            .await?;
        let room = self.clone();
        self.service
            .register(WHO, move |_: Request| std::future::ready(Ok(room.door.lock().members.names())))
            .await?;
        self.look_around().await;
        self.service.subscribe(SAY).await
    }

    fn enter(&self, edge: &EdgeInfo) -> frontier::Result<()> {
        // Edges that are no members of a chat are welcome at the gateway, too.
        let Some(name) = Name::of(edge) else { return Ok(()) };
        let name = name.map_err(|reason| Error::new(ErrorCode::InvalidArgument, reason))?;
        let mut door = self.door.lock();
        let new = door
            .members
            .enter(edge.id(), edge.epoch(), &name)
            .map_err(|reason| Error::new(ErrorCode::PermissionDenied, reason))?;
        if new {
            door.tell_all(&format!("* {name} is here"));
            door.connect(edge.id(), &self.service);
        }
        Ok(())
    }

    fn leave(&self, edge: &EdgeInfo) {
        let mut door = self.door.lock();
        if let Some(name) = door.members.leave(edge.id(), edge.epoch()) {
            door.lines.remove(&edge.id());
            door.tell_all(&format!("* {name} has left"));
        }
    }

    /// Asks who is here.
    async fn look_around(&self) {
        self.door.lock().members.ask();
        let list = match self.service.presence().await {
            Ok(list) => list,
            Err(error) => return say(format!("cannot ask who is here: {error}")),
        };
        let named = |edge: &EdgeInfo| Some((edge.id(), edge.epoch(), Name::of(edge)?.ok()?));
        let mut door = self.door.lock();
        let Changes { came, left } = door.members.listed(list.iter().filter_map(named).collect());
        for (edge, name) in left {
            door.lines.remove(&edge);
            door.tell_all(&format!("* {name} has left"));
        }
        for (edge, _) in came {
            door.connect(edge, &self.service);
        }
        let names = door.members.names();
        door.tell_all(&format!("* the room is open; here: {names}"));
    }

    async fn hear(&self, message: Message) {
        let edge = message.from().edge();
        let text = printable(&String::from_utf8_lossy(message.body()));
        let known = {
            let door = self.door.lock();
            let name = edge.and_then(|edge| Some((edge, door.members.name(edge)?)));
            name.map(|(edge, name)| door.tell(&format!("{name}: {text}"), Some(edge)))
        };
        // Who is gone by now need not be told.
        drop(match known {
            Some(()) => message.done().await,
            None => message.error("you are not in the room").await,
        });
    }

    /// Says goodbye to all.
    async fn close(&self) {
        let edges: Vec<EdgeId> = {
            let mut door = self.door.lock();
            door.lines.clear();
            door.members.edges().collect()
        };
        let mut goodbyes = JoinSet::new();
        for edge in edges {
            let goodbye = self.service.publish(edge, "* the room closes").topic(HEAR).timeout(GOODBYE);
            goodbyes.spawn(goodbye.into_future());
        }
        goodbyes.join_all().await;
    }
}

// === impl Door ===

impl Door {
    /// Opens the way to a member.
    fn connect(&mut self, edge: EdgeId, service: &Service) {
        let (outbox, lines) = mpsc::channel(BACKLOG);
        let task = Handle::current().spawn(deliver(service.clone(), edge, lines));
        self.lines.insert(edge, Line { outbox, _task: AbortOnDropHandle::new(task) });
    }

    fn tell_all(&self, text: &str) {
        self.tell(text, None);
    }

    /// Tells everybody except the one who said it.
    fn tell(&self, text: &str, except: Option<EdgeId>) {
        say(text);
        for (edge, line) in &self.lines {
            if Some(*edge) != except && line.outbox.try_send(text.to_owned()).is_err() {
                say(format!(
                    "({} does not keep up and misses a line)",
                    self.members.name(*edge).map_or_else(String::new, Name::to_string)
                ));
            }
        }
    }
}

/// Brings a member what it is to hear, in order.
async fn deliver(service: Service, edge: EdgeId, mut lines: mpsc::Receiver<String>) {
    while let Some(text) = lines.recv().await {
        // A member is announced a moment before it can be reached; one that is gone ends this task by its leave.
        while let Err(error) = service.publish(edge, text.clone()).topic(HEAR).await
            && error.code() == ErrorCode::EdgeNotOnline
        {
            sleep(Duration::from_millis(100)).await;
        }
    }
}
