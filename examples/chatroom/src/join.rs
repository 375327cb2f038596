//! A member: shows what is said, says what is typed.

use std::{io::BufRead, thread};

use anyhow::Context;
use frontier::{Edge, Error, ErrorCode, State, StateWatch};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{META, SAY, WHO, name::Name, out::say, printable};

/// Lines typed ahead; more wait in the terminal.
const TYPED: usize = 16;

pub(crate) async fn run(gateway: &str, name: &Name) -> anyhow::Result<()> {
    let edge = Edge::builder(gateway)
        .meta(format!("{META}{name}"))
        .connect()
        .await
        .with_context(|| format!("cannot join by the gateway at {gateway}"))?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    say(format!("* you are {name} (edge {}); /who lists the others, Ctrl-D leaves", edge.id()));
    who(&edge).await;
    select! {
        () = talk(&edge, typed()) => {}
        () = listen(&edge) => {}
        () = follow(edge.watch()) => {}
        _ = interrupts.recv() => {}
    }
    edge.close().await;
    say("* bye");
    Ok(())
}

/// Says what is typed, until the input ends.
async fn talk(edge: &Edge, mut typed: mpsc::Receiver<String>) {
    while let Some(line) = typed.recv().await {
        match line.trim() {
            "" => {}
            "/who" => who(edge).await,
            "/quit" => return,
            text => {
                if let Err(error) = edge.publish(SAY, text.to_owned()).await {
                    say(format!("* not delivered: {}", in_words(&error)));
                }
            }
        }
    }
}

async fn listen(edge: &Edge) {
    while let Some(message) = edge.receive().await {
        say(printable(&String::from_utf8_lossy(message.body())));
        // The room does not care whether it heard of this.
        drop(message.done().await);
    }
}

async fn follow(mut state: StateWatch) {
    while let Some(state) = state.changed().await {
        say(format!("* gateway: {state}"));
        if let State::Closed { .. } = state {
            return;
        }
    }
}

async fn who(edge: &Edge) {
    match edge.call(WHO, "").await {
        Ok(names) => say(format!("* here: {}", printable(&String::from_utf8_lossy(&names)))),
        Err(error) => say(format!("* {}", in_words(&error))),
    }
}

fn in_words(error: &Error) -> String {
    match error.code() {
        // Nobody offers the method, nobody takes the topic.
        ErrorCode::MethodNotFound | ErrorCode::TopicNotOnline => "the room is not open".to_owned(),
        _ => error.to_string(),
    }
}

/// Lines from the terminal. Reading it cannot be interrupted, so the thread is not waited for: it ends with the process.
fn typed() -> mpsc::Receiver<String> {
    let (lines, typed) = mpsc::channel(TYPED);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    typed
}
