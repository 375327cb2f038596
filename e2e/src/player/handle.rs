//! An edge, a service or a stream of a player, with the commands that a scenario gives to it.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;

use super::{Command, Kind, Payload, Pending, Player, Told};
use crate::wait::SOON;

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Handle {
    player: Arc<Player>,
    end: u64,
    stream: u64,
    id: u64,
}

// === impl Handle ===

impl Handle {
    /// Connects an edge or a service.
    ///
    /// # Errors
    /// When it does not become one; then the inner error is what it was told.
    pub fn connect(player: &Arc<Player>, command: Command) -> anyhow::Result<Result<Self, String>> {
        let told = player.begin(Command { verb: "connect", ..command })?.within(2 * SOON)?;
        Ok(match told.error {
            Some(error) => Err(error),
            None => Ok(Self { player: Arc::clone(player), end: told.end, stream: 0, id: told.client }),
        })
    }

    /// Who plays it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.player.kind()
    }

    /// The ID it got when it connected.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether something happened to this edge or service.
    #[must_use]
    pub fn is_of(&self, told: &Told) -> bool {
        told.end == self.end
    }

    /// The ID it has now.
    ///
    /// # Errors
    /// When it does not say.
    pub fn id_now(&self) -> anyhow::Result<u64> {
        Ok(self.begin("id", Command::default())?.ok()?.client)
    }

    /// Begins any command.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn begin(&self, verb: &'static str, command: Command) -> anyhow::Result<Pending> {
        self.player.begin(Command { verb, end: self.end, stream: self.stream, ..command })
    }

    /// Offers a method: `echo`, `fail` with what came, or `hold` for the test to answer.
    ///
    /// # Errors
    /// When that fails.
    pub fn offers(&self, name: &str, how: &'static str) -> anyhow::Result<()> {
        self.begin("register", Command { name: name.to_owned(), how, ..Command::default() })?.ok()?;
        Ok(())
    }

    /// Calls a method. `edge` is the edge that a service means.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn call(&self, edge: u64, name: &str, data: impl Into<Payload>) -> anyhow::Result<Pending> {
        self.begin("call", Command { edge, name: name.to_owned(), data: data.into(), ..Command::default() })
    }

    /// Publishes a message.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn publish(&self, edge: u64, name: &str, data: impl Into<Payload>) -> anyhow::Result<Pending> {
        self.begin(
            "publish",
            Command { edge, name: name.to_owned(), data: data.into(), ..Command::default() },
        )
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn receive(&self) -> anyhow::Result<Pending> {
        self.begin("receive", Command::default())
    }

    /// Acknowledges a message, or says what is wrong with it.
    ///
    /// # Errors
    /// When that fails.
    pub fn settle(&self, message: &Told, error: &str) -> anyhow::Result<()> {
        let command = Command { of: message.of, error: error.to_owned(), ..Command::default() };
        self.begin("done", command)?.ok()?;
        Ok(())
    }

    /// Waits for something to happen by itself to this end.
    ///
    /// # Errors
    /// When it does not.
    pub fn event(&self, event: &str, within: Duration) -> anyhow::Result<Told> {
        self.player.event(within, |told| told.event == event && self.is_of(told))
    }

    /// Waits for a call of a method that is held.
    ///
    /// # Errors
    /// When none comes.
    pub fn request(&self, name: &str) -> anyhow::Result<Told> {
        let fits = |told: &Told| told.event == "request" && self.is_of(told) && told.name == name;
        self.player.event(SOON, fits)
    }

    /// Answers a call that is held.
    ///
    /// # Errors
    /// When that fails.
    pub fn answer(&self, request: &Told, data: impl Into<Payload>) -> anyhow::Result<()> {
        let command = Command { of: request.of, data: data.into(), ..Command::default() };
        self.begin("respond", command)?.ok()?;
        Ok(())
    }

    /// Answers a call that is held with an error.
    ///
    /// # Errors
    /// When that fails.
    pub fn refuse(&self, request: &Told, error: &str) -> anyhow::Result<()> {
        let command = Command { of: request.of, error: error.to_owned(), ..Command::default() };
        self.begin("respond", command)?.ok()?;
        Ok(())
    }

    /// Answers `get_edge_id`.
    ///
    /// # Errors
    /// When that fails.
    pub fn grant(&self, request: &Told, edge: u64) -> anyhow::Result<()> {
        self.begin("respond", Command { of: request.of, edge, ..Command::default() })?.ok()?;
        Ok(())
    }

    /// Cancels a command.
    ///
    /// # Errors
    /// When that fails.
    pub fn cancel(&self, command: &Pending) -> anyhow::Result<()> {
        self.begin("cancel", Command { of: command.id(), ..Command::default() })?.ok()?;
        Ok(())
    }

    /// Opens a stream to a service or an edge.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn open(&self, edge: u64, name: &str, meta: impl Into<Payload>) -> anyhow::Result<Pending> {
        self.begin("open", Command { edge, name: name.to_owned(), data: meta.into(), ..Command::default() })
    }

    /// Waits for a stream.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn accept(&self) -> anyhow::Result<Pending> {
        self.begin("accept", Command::default())
    }

    /// The stream that was opened or accepted.
    #[must_use]
    pub fn stream(&self, told: &Told) -> Self {
        Self { stream: told.stream, ..self.clone() }
    }

    /// Writes to a stream.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn write(&self, data: impl Into<Payload>, chunk: usize) -> anyhow::Result<Pending> {
        self.begin("write", Command { data: data.into(), chunk, ..Command::default() })
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn read(&self, count: usize) -> anyhow::Result<Pending> {
        self.begin("read", Command { count: i64::try_from(count)?, ..Command::default() })
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn read_to_end(&self) -> anyhow::Result<Pending> {
        self.begin("read", Command { count: -1, ..Command::default() })
    }

    /// Closes the stream or the end.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn close(&self) -> anyhow::Result<Pending> {
        self.begin("close", Command::default())
    }

    /// Breaks the connection without a word.
    ///
    /// # Errors
    /// When that fails.
    pub fn breaks(&self) -> anyhow::Result<()> {
        self.begin("break", Command::default())?.ok()?;
        Ok(())
    }

    /// Does many of one thing; all must go well.
    ///
    /// # Errors
    /// When they do not, within the time.
    pub fn all_well(&self, pending: Pending, count: u64, within: Duration) -> anyhow::Result<()> {
        let outcomes = pending.within(within)?.ok()?.outcomes;
        ensure!(outcomes.len() == 1 && outcomes.get("ok") == Some(&count), "of {count}: {outcomes:?}");
        Ok(())
    }
}
