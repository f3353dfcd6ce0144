//! The queue of log lines, and the thread that writes them to standard error: whoever logs waits for no
//! reader, and a reader that reads nothing costs lines, which are counted.
//!
//! Not `tracing-appender`: its queue is bounded in lines, not in bytes, and its end writes to standard error
//! itself when that is what nobody reads.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::fmt::MakeWriter;

use crate::printable::one_line;

/// Most bytes that wait to be written. A line that is longer is taken when no other waits.
const ROOM: usize = 1 << 20;

/// The queue's end for those that log; clones share it.
#[derive(Clone, Debug)]
pub(super) struct LogQueue {
    orders: Sender<Order>,
    account: Arc<Account>,
    room: usize,
}

#[derive(Debug)]
enum Order {
    Write(Vec<u8>),
    /// Tells the sender that everything before this has been written.
    Say(SyncSender<()>),
}

/// The bytes that wait, and the lines that were dropped.
#[derive(Debug, Default)]
struct Account {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

impl LogQueue {
    /// Starts the thread that writes to standard error. It calls `tell` with the number of lines that were
    /// dropped, once the others have been written.
    ///
    /// # Errors
    /// The thread cannot be started, or the process has no room for another descriptor.
    pub(super) fn start(tell: impl Fn(u64) + Send + 'static) -> io::Result<Self> {
        // Not `io::stderr()`, whose lock this thread would hold while nobody reads.
        let output = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Self::start_with(Waiting(output), ROOM, tell)
    }

    fn start_with(
        output: impl Write + Send + 'static,
        room: usize,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, received) = channel();
        let account = Arc::new(Account::default());
        let of_thread = Arc::clone(&account);
        thread::Builder::new()
            .name("dz-log".to_owned())
            .spawn(move || write(&received, output, &of_thread, tell))?;
        Ok(Self {
            orders,
            account,
            room,
        })
    }

    /// Has a line written, or drops and counts it if too many bytes wait.
    pub(super) fn push(&self, line: Vec<u8>) {
        let len = line.len();
        let before = self.account.waiting.fetch_add(len, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(len) <= self.room;
        if !fits || self.orders.send(Order::Write(line)).is_err() {
            self.account.waiting.fetch_sub(len, Ordering::Relaxed);
            self.account.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many lines have been dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.account.dropped.load(Ordering::Relaxed)
    }

    /// Waits until every line that was pushed before has been written, for the length of `patience` at most.
    pub(super) fn flush(&self, patience: Duration) {
        let (said, written) = sync_channel(1);
        if self.orders.send(Order::Say(said)).is_ok() {
            // Whether it is time that has run out or the lines are written: the caller goes on.
            let _ = written.recv_timeout(patience);
        }
    }
}

fn write(orders: &Receiver<Order>, mut output: impl Write, account: &Account, tell: impl Fn(u64)) {
    let mut told = 0;
    for order in orders {
        let line = match order {
            Order::Write(line) => line,
            Order::Say(written) => {
                // Nobody listens any more whose patience is over.
                let _ = written.try_send(());
                continue;
            }
        };
        let outcome = output.write_all(&line);
        let before = account.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        if outcome.is_err() {
            account.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let dropped = account.dropped.load(Ordering::Relaxed);
        if before == line.len() && dropped != told {
            tell(dropped - told);
            told = dropped;
        }
    }
}

/// One event of `tracing`, which comes in one call and is one line.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = one_line(text.trim_end_matches('\n'));
        self.push(format!("{text}\n").into_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// A file whose writer waits for the reader, also if whoever opened it has made it non-blocking.
struct Waiting(File);

impl Write for Waiting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut files = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut files, PollTimeout::NONE)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, PipeWriter, pipe};
    use std::sync::Mutex;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A queue with room for `room` bytes that writes into a pipe, and the numbers that it has told.
    fn queue(room: usize, writer: PipeWriter) -> (LogQueue, Arc<Mutex<Vec<u64>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let of_thread = Arc::clone(&told);
        let tell = move |lines| of_thread.lock().unwrap().push(lines);
        (LogQueue::start_with(writer, room, tell).unwrap(), told)
    }

    /// Pushes more than a pipe takes. Returns how many lines.
    fn flood(queue: &LogQueue) -> u64 {
        for number in 0..20_000 {
            queue.push(format!("line {number:06}\n").into_bytes());
        }
        20_000
    }

    fn lines(reader: PipeReader, queue: LogQueue) -> Vec<String> {
        // Its thread ends with it, and so does what is read.
        drop(queue);
        BufReader::new(reader).lines().map(Result::unwrap).collect()
    }

    #[test]
    fn who_logs_does_not_wait_for_a_reader_and_what_is_dropped_is_counted_and_told() {
        let (reader, writer) = pipe().unwrap();
        let (queue, told) = queue(1_200, writer);
        let pushed = flood(&queue);
        let dropped = queue.dropped();
        assert!(dropped > 0, "nothing dropped");
        let read = lines(reader, queue);
        assert!(read.is_sorted(), "in another order");
        assert_eq!(read.len() as u64 + dropped, pushed);
        assert_eq!(told.lock().unwrap().iter().sum::<u64>(), dropped);
    }

    #[test]
    fn a_flush_waits_for_what_came_before_and_not_for_ever() {
        let (reader, writer) = pipe().unwrap();
        let (queue, _) = queue(ROOM, writer);
        queue.push(b"first\n".to_vec());
        queue.flush(PATIENCE);
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "first\n");
        flood(&queue);
        queue.flush(Duration::from_millis(1));
    }

    #[test]
    fn lines_that_nobody_can_read_any_more_are_counted_and_not_told() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let (queue, told) = queue(ROOM, writer);
        queue.push(b"unread\n".to_vec());
        queue.flush(PATIENCE);
        assert_eq!((queue.dropped(), told.lock().unwrap().len()), (1, 0));
    }

    #[test]
    fn an_event_is_one_line_that_no_terminal_acts_on() {
        let (reader, writer) = pipe().unwrap();
        let (queue, _) = queue(ROOM, writer);
        let mut events = &queue;
        events.write_all(b"a\x1b[2J\nERROR b\n").unwrap();
        assert_eq!(lines(reader, queue), [r"a\u001b[2J\u000aERROR b"]);
    }

    #[test]
    fn a_line_longer_than_the_queue_is_written_when_it_is_alone() {
        let (reader, writer) = pipe().unwrap();
        let (queue, _) = queue(4, writer);
        queue.push(b"longer than four\n".to_vec());
        queue.flush(PATIENCE);
        assert_eq!(lines(reader, queue), ["longer than four"]);
    }
}
