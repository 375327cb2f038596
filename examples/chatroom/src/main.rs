//! A chat in several terminals: one is the room, a service; the others are its members, edges.

mod join;
mod members;
mod name;
mod out;
mod room;

use clap::Parser;

use self::name::Name;

/// How the meta of a member begins; its name follows. Other edges of the gateway are none of the room's business.
const META: &str = "chatroom/";
/// The topic of what members say.
const SAY: &str = "chatroom.say";
/// The topic of what members hear.
const HEAR: &str = "chatroom.hear";
/// The method that lists the members.
const WHO: &str = "chatroom.who";

/// A chat through a gateway.
#[derive(Debug, Parser)]
enum Args {
    /// Open the room
    Room {
        /// Where the gateway takes services
        #[arg(long, value_name = "ADDRESS", default_value = "tcp://127.0.0.1:30011")]
        gateway: String,
    },
    /// Join the room: what you type is said, Ctrl-C or Ctrl-D leaves
    Join {
        /// What the others call you
        name: Name,
        /// Where the gateway takes edges
        #[arg(long, value_name = "ADDRESS", default_value = "tcp://127.0.0.1:30012")]
        gateway: String,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Room { gateway } => room::run(&gateway).await,
        Args::Join { name, gateway } => join::run(&gateway, &name).await,
    }
}

/// What may be shown in somebody else's terminal: one line without control characters, not longer than a screen.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(1_000).collect()
}
