//! A stream of Redis, consumed as a member of a group: `XREADGROUP` on one connection, everything else on a second one, as a read waits.
//!
//! What is given out stays pending in the group until `XACK`. What is given back is claimed again (`XCLAIM`) after the pause, and what a
//! consumer that is gone has left, of whatever name, once it has been idle for longer than any living one would leave it (`XAUTOCLAIM`). How often
//! an entry was delivered is what Redis says (`XPENDING`).

mod client;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use self::client::{Client, Value};
use super::{
    Inflow, Origin,
    desk::{Desk, Verdict},
    mail::{Flaw, Mail},
};
use crate::{
    ConnectError,
    config::{self, Address},
    redis::{BODY, Redis},
};

/// A read waits so long for entries.
const BLOCK: Duration = Duration::from_secs(2);
/// A server that says nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Entries asked for at once.
const COUNT: usize = 64;
/// The least that an entry is expected to take.
const ENTRY: usize = 4 << 10;
/// Pending entries are looked for so often at most.
const CLAIM: Duration = Duration::from_secs(5);
/// Pause before it is looked again whether there is room.
const NO_ROOM: Duration = Duration::from_millis(200);
/// Beyond the time of an edge and the pause, before an entry counts as left behind.
const SLACK: Duration = Duration::from_secs(2);
/// Texts of answers that hold no bodies.
const SMALL: usize = 1 << 20;

/// See the module documentation.
pub(super) struct Group {
    redis: Redis,
    addresses: Vec<Address>,
    place: Arc<Place>,
    /// Entries that are settled and whose `XACK` no server has answered: they go before anything is claimed.
    settled: Arc<Mutex<HashSet<Bytes>>>,
}

/// Which stream, and who we are.
struct Place {
    stream: String,
    group: String,
    consumer: String,
}

/// Both connections.
pub(super) struct Member {
    reader: Client,
    other: Client,
    place: Arc<Place>,
    hand: Mutex<Hand>,
    settled: Arc<Mutex<HashSet<Bytes>>>,
}

/// What is ours at the moment.
#[derive(Default)]
struct Hand {
    /// The IDs of entries by the number of the desk.
    by_number: HashMap<u64, Bytes>,
    ids: HashSet<Bytes>,
    /// What is to be claimed again, and when.
    parked: BTreeMap<(Instant, u64), Parked>,
    order: u64,
    /// The longest entry of the last read.
    longest: usize,
}

struct Parked {
    id: Bytes,
    /// `None`: it did not fit beside others, and was not delivered.
    number: Option<u64>,
}

/// An entry as it was read.
struct Entry {
    id: Bytes,
    mail: Mail,
    /// Something of it was not kept.
    cut: bool,
}

// === impl Group ===

impl Group {
    pub(super) fn new(config: &config::Source) -> Self {
        let redis = &config.redis;
        let (stream, group, consumer) = (redis.stream.clone(), redis.group.clone(), redis.consumer.clone());
        Self {
            redis: Redis::new(&redis.queue()),
            addresses: redis.addrs.clone(),
            place: Arc::new(Place { stream, group, consumer }),
            settled: Arc::default(),
        }
    }
}

impl Origin for Group {
    type Inflow = Member;

    fn addresses(&self) -> Vec<Arc<str>> {
        self.addresses.iter().map(Address::shown).collect()
    }

    async fn connect(&mut self, index: usize, _: &Arc<Desk>) -> Result<Member, ConnectError> {
        let reader = Client::new(self.redis.dial(index).await?);
        let mut other = Client::new(self.redis.dial(index).await?);
        let Place { stream, group, .. } = &*self.place;
        // From the beginning: what was there before the group was made is for it, too.
        let make: [&[u8]; 6] = [b"XGROUP", b"CREATE", stream.as_bytes(), group.as_bytes(), b"0", b"MKSTREAM"];
        match other.call(&make, SMALL, PATIENCE).await.map_err(ConnectError::unreachable)? {
            Value::Error(text) if !text.starts_with("BUSYGROUP") => return Err(ConnectError::refused(text)),
            _ => {}
        }
        let (place, settled) = (Arc::clone(&self.place), Arc::clone(&self.settled));
        Ok(Member { reader, other, place, hand: Mutex::default(), settled })
    }
}

// === impl Member ===

impl Inflow for Member {
    async fn run(self, desk: &Arc<Desk>) -> String {
        let Self { mut reader, mut other, place, hand, settled } = self;
        let ended = tokio::select! {
            biased;
            () = desk.quit.cancelled() => return "closed".to_owned(),
            ended = settle(&mut other, &place, &hand, &settled, desk) => ended,
            ended = read(&mut reader, &place, &hand, desk) => ended,
        };
        ended.err().unwrap_or_default()
    }
}

/// Reads what is new, for ever.
async fn read(
    client: &mut Client,
    place: &Place,
    hand: &Mutex<Hand>,
    desk: &Arc<Desk>,
) -> Result<(), String> {
    let block = BLOCK.as_millis().to_string();
    loop {
        let room = desk.room();
        if room.messages == 0 || room.bytes == 0 {
            desk.more_room().await;
            continue;
        }
        // As many as will fit; what does not fit all the same is read again by itself.
        let expected = hand.lock().longest.max(ENTRY);
        let count = (room.bytes / expected).clamp(1, COUNT).min(room.messages);
        let budget = if count == 1 { desk.options.max_in_flight_bytes } else { room.bytes };
        let number = count.to_string();
        let args: [&[u8]; 11] = [
            b"XREADGROUP",
            b"GROUP",
            place.group.as_bytes(),
            place.consumer.as_bytes(),
            b"COUNT",
            number.as_bytes(),
            b"BLOCK",
            block.as_bytes(),
            b"STREAMS",
            place.stream.as_bytes(),
            b">",
        ];
        let answer = fine(client.call(&args, budget, BLOCK + PATIENCE).await?)?;
        // [[stream, [entry, …]]]
        let entries = answer.list().into_iter().flat_map(|stream| stream.list().into_iter().nth(1));
        let entries: Vec<Entry> = entries.flat_map(Value::list).filter_map(entry).collect();
        hand.lock().longest = entries.iter().map(|entry| entry.mail.cost()).max().unwrap_or_default();
        for entry in entries {
            if entry.cut && count > 1 {
                hand.lock().park(Instant::now(), entry.id, None);
            } else {
                take(entry, 1, hand, desk);
            }
        }
    }
}

/// Hands an entry in.
fn take(entry: Entry, attempt: u32, hand: &Mutex<Hand>, desk: &Arc<Desk>) {
    let flaw = if entry.cut { Some(Flaw::TooLong) } else { entry.mail.flaw };
    let number = desk.take(Mail { flaw, ..entry.mail }, attempt);
    let mut hand = hand.lock();
    hand.ids.insert(entry.id.clone());
    hand.by_number.insert(number, entry.id);
}

/// Acknowledges, claims again, and looks for what others have left, for ever.
async fn settle(
    client: &mut Client,
    place: &Place,
    hand: &Mutex<Hand>,
    settled: &Mutex<HashSet<Bytes>>,
    desk: &Arc<Desk>,
) -> Result<(), String> {
    let before: Vec<Bytes> = settled.lock().iter().cloned().collect();
    for ids in before.chunks(COUNT) {
        acknowledge(client, place, ids, settled).await?;
    }
    let idle = desk.options.done_timeout + desk.options.retry_delay + SLACK;
    let (mut look, mut cursor) = (Instant::now(), Bytes::from_static(b"0-0"));
    let mut verdicts = Vec::new();
    loop {
        let room = desk.room();
        let open = room.messages > 0 && room.bytes > 0;
        let due = hand.lock().parked.first_key_value().map(|((due, _), _)| *due);
        // Without room nothing is claimed, and nobody says when there is some again.
        let next = if open { due.map_or(look, |due| due.min(look)) } else { Instant::now() + NO_ROOM };
        tokio::select! {
            biased;
            () = desk.next(&mut verdicts) => {
                rule(client, place, hand, settled, desk, &mut verdicts).await?;
            }
            () = sleep_until(next) => {
                again(client, place, hand, desk).await?;
                if open && look <= Instant::now() {
                    cursor = adopt(client, place, hand, desk, idle, &cursor).await?;
                    let pause = if &cursor[..] == b"0-0" { CLAIM.min(idle / 2) } else { Duration::ZERO };
                    look = Instant::now() + pause;
                }
            }
        }
    }
}

async fn rule(
    client: &mut Client,
    place: &Place,
    hand: &Mutex<Hand>,
    settled: &Mutex<HashSet<Bytes>>,
    desk: &Arc<Desk>,
    verdicts: &mut Vec<(u64, Verdict)>,
) -> Result<(), String> {
    let mut done = Vec::new();
    for (number, verdict) in verdicts.drain(..) {
        let mut hand = hand.lock();
        let Some(id) = hand.by_number.remove(&number) else { continue };
        match verdict {
            Verdict::Take => {
                settled.lock().insert(id.clone());
                done.push((number, id));
            }
            Verdict::Return => hand.park(Instant::now() + desk.options.retry_delay, id, Some(number)),
        }
    }
    for some in done.chunks(COUNT) {
        let ids: Vec<Bytes> = some.iter().map(|(_, id)| id.clone()).collect();
        acknowledge(client, place, &ids, settled).await?;
        for (number, id) in some {
            hand.lock().ids.remove(id);
            desk.release(*number);
        }
    }
    Ok(())
}

async fn acknowledge(
    client: &mut Client,
    place: &Place,
    ids: &[Bytes],
    settled: &Mutex<HashSet<Bytes>>,
) -> Result<(), String> {
    let mut args: Vec<&[u8]> = vec![b"XACK", place.stream.as_bytes(), place.group.as_bytes()];
    args.extend(ids.iter().map(|id| &id[..]));
    fine(client.call(&args, SMALL, PATIENCE).await?)?;
    let mut settled = settled.lock();
    for id in ids {
        settled.remove(id);
    }
    Ok(())
}

/// Claims one by one what is due.
async fn again(
    client: &mut Client,
    place: &Place,
    hand: &Mutex<Hand>,
    desk: &Arc<Desk>,
) -> Result<(), String> {
    loop {
        let parked = {
            let mut hand = hand.lock();
            let due = hand.parked.first_entry().filter(|first| first.key().0 <= Instant::now());
            // The place of one that was given back is kept; what it takes is not.
            let Some(first) = due else { return Ok(()) };
            let fresh = first.get().number.is_none();
            let room = desk.room();
            if room.bytes == 0 || fresh && room.messages == 0 {
                return Ok(());
            }
            let parked = first.remove();
            hand.ids.remove(&parked.id);
            parked
        };
        if let Some(number) = parked.number {
            desk.release(number);
        }
        // Less idle than that it is somebody else's meanwhile.
        let least =
            if parked.number.is_some() { desk.options.retry_delay.mul_f64(0.8) } else { Duration::ZERO };
        let least = least.as_millis().to_string();
        let mut args: Vec<&[u8]> = vec![b"XCLAIM", place.stream.as_bytes(), place.group.as_bytes()];
        args.extend([place.consumer.as_bytes(), least.as_bytes(), &parked.id]);
        if parked.number.is_none() {
            args.extend([&b"RETRYCOUNT"[..], b"1"]);
        }
        let answer = fine(client.call(&args, desk.options.max_in_flight_bytes, PATIENCE).await?)?;
        for entry in answer.list().into_iter().filter_map(entry) {
            let attempt = deliveries(client, place, &entry.id).await?;
            take(entry, attempt, hand, desk);
        }
    }
}

/// Claims what consumers that are gone have left; returns where to go on.
async fn adopt(
    client: &mut Client,
    place: &Place,
    hand: &Mutex<Hand>,
    desk: &Arc<Desk>,
    idle: Duration,
    cursor: &Bytes,
) -> Result<Bytes, String> {
    let room = desk.room();
    let expected = hand.lock().longest.max(ENTRY);
    let count = (room.bytes / expected).clamp(1, COUNT).min(room.messages.max(1));
    let budget = if count == 1 { desk.options.max_in_flight_bytes } else { room.bytes };
    let (idle, number) = (idle.as_millis().to_string(), count.to_string());
    let args: [&[u8]; 8] = [
        b"XAUTOCLAIM",
        place.stream.as_bytes(),
        place.group.as_bytes(),
        place.consumer.as_bytes(),
        idle.as_bytes(),
        cursor,
        b"COUNT",
        number.as_bytes(),
    ];
    let mut answer = fine(client.call(&args, budget, PATIENCE).await?)?.list().into_iter();
    let next = answer.next().and_then(|value| value.text().cloned()).unwrap_or_default();
    for entry in answer.next().unwrap_or(Value::Nothing).list().into_iter().filter_map(entry) {
        if hand.lock().ids.contains(&entry.id) {
            // It is ours, and only slow.
            continue;
        }
        if entry.cut && count > 1 {
            hand.lock().park(Instant::now(), entry.id, None);
            continue;
        }
        let attempt = deliveries(client, place, &entry.id).await?;
        take(entry, attempt, hand, desk);
    }
    Ok(if next.is_empty() { Bytes::from_static(b"0-0") } else { next })
}

/// How often an entry that is pending was delivered.
async fn deliveries(client: &mut Client, place: &Place, id: &Bytes) -> Result<u32, String> {
    let args: [&[u8]; 6] = [b"XPENDING", place.stream.as_bytes(), place.group.as_bytes(), id, id, b"1"];
    let answer = fine(client.call(&args, SMALL, PATIENCE).await?)?;
    // [[id, consumer, idle, deliveries]]
    let entry = answer.list().into_iter().next().unwrap_or(Value::Nothing).list();
    Ok(match entry.get(3) {
        Some(Value::Number(count)) => u32::try_from(*count).unwrap_or(1),
        _ => 1,
    })
}

fn fine(answer: Value) -> Result<Value, String> {
    match answer {
        Value::Error(text) => Err(text),
        answer => Ok(answer),
    }
}

/// `[id, [name, value, …]]`; what was deleted meanwhile has no fields.
fn entry(value: Value) -> Option<Entry> {
    let mut parts = value.list().into_iter();
    let id = parts.next()?.text()?.clone();
    let Value::List(fields) = parts.next()? else { return None };
    let cut = fields.contains(&Value::Cut);
    let (mut headers, mut body) = (Vec::new(), None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let (Value::Text(name), Value::Text(value)) = (name, value) else { continue };
        if &name[..] == BODY.as_bytes() {
            body = Some(value);
        } else {
            headers.push((String::from_utf8_lossy(&name).into_owned(), value));
        }
    }
    let flaw = if body.is_none() { Some(Flaw::Malformed("no field body")) } else { None };
    let mail = Mail { headers, body: body.unwrap_or_default(), properties: None, flaw };
    Some(Entry { id, mail, cut })
}

// === impl Hand ===

impl Hand {
    fn park(&mut self, due: Instant, id: Bytes, number: Option<u64>) {
        self.order += 1;
        self.ids.insert(id.clone());
        self.parked.insert((due, self.order), Parked { id, number });
    }
}
