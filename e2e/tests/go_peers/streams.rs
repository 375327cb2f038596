//! Streams, opened by either side.

use std::time::Duration;

use anyhow::ensure;
use frontier_e2e::{
    player::{Command, Handle, Kind, Payload},
    wait::SOON,
};

use crate::{
    same,
    stage::{Scenario, Stage, all, told},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("a stream carries bytes both ways", all, bytes),
    Scenario::new("a stream that is closed is delivered to its end", all, tail),
    Scenario::new("a stream carries messages", all, messages),
    Scenario::new("a stream carries calls", all, calls),
    Scenario::new("a stream to nobody ends at once", all, refused),
    Scenario::new("many streams at once", all, many),
    // Generations A and B drop what is not read.
    Scenario::new("a slow reader slows its writer and nobody else", lossless, slow),
    Scenario::new("a writer of many small pieces loses nothing", some_lossless, fast),
];

/// A pair of peers that both wait before they lose bytes.
fn lossless(edge: Kind, service: Kind) -> bool {
    let patient = |kind| matches!(kind, Kind::C | Kind::Rust);
    patient(edge) && patient(service)
}

/// At least one peer waits before it loses bytes.
fn some_lossless(edge: Kind, service: Kind) -> bool {
    lossless(edge, edge) || lossless(service, service)
}

/// An edge, a service called `files`, and for both directions: who opens, who accepts, the edge to name.
struct Ends {
    service: Handle,
    edge: Handle,
}

// === impl Ends ===

impl Ends {
    fn new(stage: &Stage) -> anyhow::Result<Self> {
        Ok(Self { service: stage.service("files", &[])?, edge: stage.edge()? })
    }

    fn directions(&self) -> [(&Handle, &Handle, u64); 2] {
        [(&self.edge, &self.service, 0), (&self.service, &self.edge, self.edge.id())]
    }
}

/// Opens a stream and accepts it.
fn open(opener: &Handle, acceptor: &Handle, edge: u64) -> anyhow::Result<(Handle, Handle)> {
    let accepted = acceptor.accept()?;
    let opened = opener.open(edge, "files", "report.txt")?.ok()?;
    let accepted = accepted.ok()?;
    same!(accepted.data.text, "report.txt");
    Ok((opener.stream(&opened), acceptor.stream(&accepted)))
}

fn bytes(stage: &Stage) -> anyhow::Result<()> {
    let ends = Ends::new(stage)?;
    for (opener, acceptor, edge) in ends.directions() {
        let (near, far) = open(opener, acceptor, edge)?;
        for (len, chunk) in [(5, 0), (300_000, 8 << 10), (200_000, 1_000)] {
            let (up, down) = (Payload::pattern(1, len), Payload::pattern(2, len));
            let (far_reads, near_reads) = (far.read(len)?, near.read(len)?);
            let (near_writes, far_writes) = (near.write(up.clone(), chunk)?, far.write(down.clone(), chunk)?);
            same!(far_reads.within(2 * SOON)?.ok()?.data, up.received());
            same!(near_reads.within(2 * SOON)?.ok()?.data, down.received());
            near_writes.ok()?;
            far_writes.ok()?;
        }
        let far_reads = far.read_to_end()?;
        let closed = near.close()?;
        let told = far_reads.ok()?;
        same!((told.eof, told.count), (true, 0));
        far.close()?.ok()?;
        closed.ok()?;
    }
    Ok(())
}

/// Generations A and B dismiss a stream first and send what is queued after that, if they come to it before the end; and their readers end
/// at once when the end comes, whatever they hold. C and ours do neither.
fn tail(stage: &Stage) -> anyhow::Result<()> {
    const STREAMS: usize = 5;
    let hasty = |end: &Handle| matches!(end.kind(), Kind::A | Kind::B);
    let ends = Ends::new(stage)?;
    for (opener, acceptor, edge) in ends.directions() {
        let mut whole = 0;
        for _ in 0..STREAMS {
            let (near, far) = open(opener, acceptor, edge)?;
            let data = Payload::pattern(3, 200_000);
            let reads = far.read_to_end()?;
            near.write(data.clone(), 10_000)?.ok()?;
            let closed = near.close()?;
            let told = reads.within(2 * SOON)?.ok()?;
            ensure!(told.eof, "no end");
            same!(told.data, Payload::pattern(3, told.count).received());
            whole += usize::from(told.count == data.len);
            far.close()?.ok()?;
            closed.ok()?;
        }
        let least = match (hasty(opener), hasty(acceptor)) {
            (_, true) => 0,
            // Hardly ever is anything lost. A gateway that stopped at the Dismiss would lose some of every stream.
            (true, false) => 1,
            (false, false) => STREAMS,
        };
        ensure!(whole >= least, "{whole} of {STREAMS} streams arrived whole from {}", opener.kind());
    }
    Ok(())
}

fn messages(stage: &Stage) -> anyhow::Result<()> {
    let ends = Ends::new(stage)?;
    for (opener, acceptor, edge) in ends.directions() {
        let (near, far) = open(opener, acceptor, edge)?;
        for (from, to) in [(&near, &far), (&far, &near)] {
            let publish = from.publish(0, "progress", "50 %")?;
            let message = to.receive()?.ok()?;
            same!((message.name.as_str(), message.data.text.as_str()), ("progress", "50 %"));
            to.settle(&message, "")?;
            publish.ok()?;
            let publish = from.publish(0, "progress", "-1 %")?;
            to.settle(&to.receive()?.ok()?, "less than nothing")?;
            same!(publish.failed()?, "less than nothing");
            // The Go gateway forwards no more messages after a failed one.
            let received = to.begin("receive_many", Command { count: 50, ..Command::default() })?;
            let many = Command { count: 50, window: 10, ..Command::default() };
            from.all_well(from.begin("publish_many", many)?, 50, SOON)?;
            received.ok()?;
        }
    }
    Ok(())
}

fn calls(stage: &Stage) -> anyhow::Result<()> {
    let ends = Ends::new(stage)?;
    for (opener, acceptor, edge) in ends.directions() {
        let (near, far) = open(opener, acceptor, edge)?;
        for (from, to) in [(&near, &far), (&far, &near)] {
            to.offers("echo", "echo")?;
            to.offers("fail", "fail")?;
            let data = Payload::pattern(8, 100_000);
            same!(from.call(0, "echo", data.clone())?.ok()?.data, data.received());
            same!(from.call(0, "fail", "not here")?.failed()?, "not here");
            let error = from.call(0, "nothing", "")?.failed()?;
            told(from, &error, "no such rpc: nothing", "method_not_found")?;
            same!(from.call(0, "echo", "again")?.ok()?.data.text, "again");
        }
    }
    // What is offered on a stream is offered there only.
    let error = ends.edge.call(0, "echo", "")?.failed()?;
    told(&ends.edge, &error, "record not found", "method_not_found")
}

fn refused(stage: &Stage) -> anyhow::Result<()> {
    let ends = Ends::new(stage)?;
    for (opener, target, code) in
        [(&ends.edge, 0, "service_not_online"), (&ends.service, 4_242, "edge_not_online")]
    {
        let opened = opener.open(target, "nobody", "")?.wait()?;
        if opened.error.is_none() {
            // What Go can be told: the stream that was opened has ended.
            let stream = opener.stream(&opened);
            let told = stream.read_to_end()?.ok()?;
            same!((told.eof, told.count), (true, 0));
            stream.close()?.ok()?;
        } else {
            same!(opened.failed()?, code);
        }
        // Nothing stays behind that closing would wait for.
        opener.close()?.within(Duration::from_secs(5))?.ok()?;
    }
    Ok(())
}

fn many(stage: &Stage) -> anyhow::Result<()> {
    const STREAMS: u64 = 20;
    let ends = Ends::new(stage)?;
    let mut open_now = Vec::new();
    for number in 0..STREAMS {
        let (opener, acceptor, edge) = ends.directions()[usize::from(number % 2 == 0)];
        let (near, far) = open(opener, acceptor, edge)?;
        let data = Payload::pattern(number, 40_000);
        let (read, write) = (far.read(data.len)?, near.write(data.clone(), 4_000)?);
        open_now.push((near, far, data, read, write));
    }
    for (near, far, data, read, write) in open_now {
        same!(read.within(2 * SOON)?.ok()?.data, data.received());
        write.ok()?;
        let end = far.read_to_end()?;
        let closed = near.close()?;
        ensure!(end.ok()?.eof, "no end");
        far.close()?.ok()?;
        closed.ok()?;
    }
    Ok(())
}

fn slow(stage: &Stage) -> anyhow::Result<()> {
    const BYTES: usize = 48 << 20;
    /// What both queues and windows on the way may hold, and the allocator above it.
    const HELD: u64 = 28 << 20;
    let ends = Ends::new(stage)?;
    ends.service.offers("echo", "echo")?;
    for (opener, acceptor, edge) in ends.directions() {
        let (near, far) = open(opener, acceptor, edge)?;
        let rss = stage.gateway.proc().rss()?;
        let data = Payload::pattern(6, BYTES);
        let write = near.write(data.clone(), 32 << 10)?;
        // Enough to see that others are not held up, and for the writer to fill whatever there is to fill.
        let bystander = stage.edge()?;
        for _ in 0..300 {
            bystander.call(0, "echo", "aside")?.ok()?;
        }
        // A Go reader takes some hundred packets into its queues before it stops.
        ensure!(far.kind().is_go() || write.is_open(), "written to a reader that does not read");
        let held = stage.gateway.proc().rss()?.saturating_sub(rss);
        ensure!(held < HELD, "the gateway holds {held} bytes of a stream that is not read");
        same!(far.read(BYTES)?.within(6 * SOON)?.ok()?.data, data.received());
        write.ok()?;
        let closed = near.close()?;
        far.close()?.ok()?;
        closed.ok()?;
        bystander.close()?.ok()?;
    }
    Ok(())
}

fn fast(stage: &Stage) -> anyhow::Result<()> {
    const BYTES: usize = 4 << 20;
    let ends = Ends::new(stage)?;
    for (opener, acceptor, edge) in ends.directions() {
        // A reader of A or B that gets no processor for a moment drops some of so many, whatever the gateway does.
        if matches!(acceptor.kind(), Kind::A | Kind::B) {
            continue;
        }
        let (near, far) = open(opener, acceptor, edge)?;
        let data = Payload::pattern(4, BYTES);
        let read = far.read(BYTES)?;
        let write = near.write(data.clone(), 1_000)?;
        same!(read.within(3 * SOON)?.ok()?.data, data.received());
        write.ok()?;
    }
    Ok(())
}
