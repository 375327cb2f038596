//! Takes log lines from every thread and writes them from one of its own.
//!
//! Nobody waits for a slow terminal, pipe or disk: lines are appended to one buffer of at most [`CAPACITY`] bytes,
//! which the writer thread swaps for an empty one and writes in one go. A line that finds the buffer full is dropped
//! and counted, and the writer says how many were lost once it gets through again.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::rotate::RotatingFile;

/// Bytes of lines that wait to be written: several thousand lines, some seconds of a busy log. Twice as much is held
/// while a batch is being written.
const CAPACITY: usize = 1 << 20;

/// How long the end of the process waits for the last lines: a stuck pipe must not keep it.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where lines end up.
pub(super) struct Outputs {
    pub(super) stream: Option<Box<dyn Write + Send>>,
    pub(super) file: Option<RotatingFile>,
}

/// A clonable end to write lines to.
#[derive(Clone)]
pub(super) struct Sink {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Lines came, or the end.
    work: Condvar,
    /// The writer thread is through with everything.
    done: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Lines dropped since the last batch.
    lost: u64,
    closing: bool,
    done: bool,
}

/// Keeps the writer thread; dropping it writes the last lines.
pub(super) struct SinkGuard {
    sink: Sink,
}

// === impl Sink ===

impl Sink {
    /// Starts the writer thread.
    pub(super) fn spawn(outputs: Outputs) -> io::Result<(Self, SinkGuard)> {
        let shared = Shared {
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            done: Condvar::new(),
            dropped: AtomicU64::new(0),
        };
        let sink = Self { shared: Arc::new(shared) };
        let writer = sink.clone();
        // Not joined but waited for by `SinkGuard`, which gives up on a thread stuck in a write.
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(outputs))?;
        Ok((sink.clone(), SinkGuard { sink }))
    }

    /// Lines lost since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.shared.queue.lock();
        if queue.closing || queue.bytes.len() + line.len() > CAPACITY {
            queue.lost += 1;
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.bytes.extend_from_slice(line);
        drop(queue);
        self.shared.work.notify_one();
    }

    fn run(&self, mut outputs: Outputs) {
        let mut batch = Vec::new();
        loop {
            let (lost, closing) = self.next_batch(&mut batch);
            if lost > 0 {
                let note = format!("{lost} log lines were lost: the output is too slow\n");
                batch.extend_from_slice(note.as_bytes());
            }
            outputs.write(&batch);
            batch.clear();
            // A burst must not keep a megabyte for ever.
            batch.shrink_to(64 * 1024);
            if closing {
                self.shared.queue.lock().done = true;
                self.shared.done.notify_all();
                return;
            }
        }
    }

    /// Waits for lines and takes them all.
    fn next_batch(&self, batch: &mut Vec<u8>) -> (u64, bool) {
        let mut queue = self.shared.queue.lock();
        while queue.bytes.is_empty() && !queue.closing {
            self.shared.work.wait(&mut queue);
        }
        mem::swap(&mut queue.bytes, batch);
        (mem::take(&mut queue.lost), queue.closing)
    }
}

impl Write for Sink {
    /// Takes one whole line; the formatter writes each line by one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Outputs ===

impl Outputs {
    /// Writes a batch of whole lines. What fails is lost: there is nowhere left to say so but standard error.
    fn write(&mut self, lines: &[u8]) {
        if let Some(stream) = &mut self.stream {
            // A closed pipe (`frontier | head`) must not end the gateway.
            let _ = stream.write_all(lines).and_then(|()| stream.flush());
        }
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_lines(lines)
        {
            let _ = writeln!(io::stderr(), "log file: {error}");
        }
    }
}

// === impl SinkGuard ===

impl Drop for SinkGuard {
    fn drop(&mut self) {
        let shared = &self.sink.shared;
        let mut queue = shared.queue.lock();
        queue.closing = true;
        shared.work.notify_one();
        while !queue.done {
            if shared.done.wait_for(&mut queue, LAST_LINES).timed_out() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Hands over each batch, and waits for a permit before it takes the next.
    struct Gate {
        batches: mpsc::SyncSender<Vec<u8>>,
        permits: mpsc::Receiver<()>,
    }

    impl Write for Gate {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            let _ = self.batches.send(lines.to_vec());
            let _ = self.permits.recv();
            Ok(lines.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Outputs, mpsc::Receiver<Vec<u8>>, mpsc::Sender<()>) {
        let (batches, seen) = mpsc::sync_channel(16);
        let (permit, permits) = mpsc::channel();
        (Outputs { stream: Some(Box::new(Gate { batches, permits })), file: None }, seen, permit)
    }

    #[test]
    fn lines_arrive_in_order_and_in_batches() {
        let (outputs, seen, permit) = gate();
        let (mut sink, guard) = Sink::spawn(outputs).unwrap();
        sink.write_all(b"one\n").unwrap();
        assert_eq!(seen.recv().unwrap(), b"one\n");
        // The writer is stuck in its first batch: these wait and go together.
        sink.write_all(b"two\n").unwrap();
        sink.write_all(b"three\n").unwrap();
        permit.send(()).unwrap();
        assert_eq!(seen.recv().unwrap(), b"two\nthree\n");
        drop(permit);
        drop(guard);
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn a_slow_output_loses_lines_but_stops_nobody() {
        let (outputs, seen, permit) = gate();
        let (mut sink, guard) = Sink::spawn(outputs).unwrap();
        sink.write_all(b"first\n").unwrap();
        assert_eq!(seen.recv().unwrap(), b"first\n");
        let line = vec![b'x'; 1 << 16];
        for _ in 0..20 {
            sink.write_all(&line).unwrap();
        }
        assert_eq!(sink.dropped(), 4, "16 lines of 64 KiB fit into the buffer");
        permit.send(()).unwrap();
        let batch = seen.recv().unwrap();
        let text = String::from_utf8_lossy(&batch);
        assert!(text.ends_with("x4 log lines were lost: the output is too slow\n"));
        drop(permit);
        drop(guard);
    }

    #[test]
    fn the_end_writes_the_last_lines() {
        let (outputs, seen, permit) = gate();
        drop(permit);
        let (mut sink, guard) = Sink::spawn(outputs).unwrap();
        sink.write_all(b"last\n").unwrap();
        drop(guard);
        assert_eq!(seen.try_iter().collect::<Vec<_>>().concat(), b"last\n");
    }
}
