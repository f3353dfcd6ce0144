//! Everything that happens to host routes in a namespace, in the kernel's own order, and marks in
//! it: a mark is a change of another route, so that what stands before it in the log was made before
//! it, and what stands behind it, after. No clock has a part in that.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::netns::Netns;
use crate::priority;
use crate::rtnl::{Change, Listener, Route, Table};

/// `rtm_protocol` of marks, of nobody else in a namespace of ours.
const PROTOCOL: u8 = 250;
/// Marks are routes to 198.18.0.0/15, the range for benchmarks.
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const MOST: u32 = 1 << 17;
/// Priority of who reads, before whatever makes packets for a test, and before the agent.
const READER: i32 = 60;

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u32);

impl Mark {
    /// The mark that a change is, if it is one.
    pub fn of(change: &Change) -> Option<Self> {
        let number = u32::from(change.route.dst).checked_sub(FIRST)?;
        let mark = change.route.protocol == PROTOCOL && !change.gone && number < MOST;
        mark.then_some(Self(number))
    }

    /// The change that makes it.
    pub fn change(self) -> Change {
        Change {
            read_ns: 0,
            gone: false,
            route: self.route(),
        }
    }

    fn route(self) -> Route {
        Route {
            dst: Ipv4Addr::from(FIRST + self.0),
            protocol: PROTOCOL,
            ifindex: 0,
        }
    }
}

#[derive(Debug, Default)]
struct Log {
    changes: Mutex<(Vec<Change>, Option<String>)>,
    news: Condvar,
    stop: AtomicBool,
}

/// The log; listening ends with the drop.
#[derive(Debug)]
pub struct RouteLog {
    log: Arc<Log>,
    marks: Mutex<(Table, u32)>,
    thread: Option<JoinHandle<()>>,
}

impl RouteLog {
    /// Begins to listen in the namespace.
    ///
    /// # Errors
    /// No privilege.
    pub fn start(netns: &Netns) -> anyhow::Result<Self> {
        let mut listener = Listener::open(netns)?;
        let log = Arc::new(Log::default());
        let shared = Arc::clone(&log);
        let thread = thread::spawn(move || {
            // Times are taken at reading. Without the privilege they are worse.
            let _ = priority::first_in_first_out(READER);
            shared.listen(&mut listener);
        });
        Ok(Self {
            log,
            marks: Mutex::new((Table::open(netns)?, 0)),
            thread: Some(thread),
        })
    }

    /// Makes a mark.
    ///
    /// # Errors
    /// The kernel refuses, or all marks are used up.
    pub fn mark(&self) -> anyhow::Result<Mark> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let (table, next) = &mut *marks;
        let number = *next;
        if number >= MOST {
            bail!("more than {MOST} marks");
        }
        *next += 1;
        table.add(&Mark(number).route())?;
        Ok(Mark(number))
    }

    /// How many changes there have been, marks included.
    ///
    /// # Panics
    /// Never.
    pub fn len(&self) -> usize {
        let changes = self.log.changes.lock();
        changes.unwrap_or_else(PoisonError::into_inner).0.len()
    }

    /// Whether nothing has happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until what follows the first `from` changes is as it should be, and returns it.
    ///
    /// # Errors
    /// It does not become so in time, or notifications were lost.
    pub fn wait(
        &self,
        from: usize,
        patience: Duration,
        mut enough: impl FnMut(&[Change]) -> bool,
    ) -> anyhow::Result<Vec<Change>> {
        let deadline = Instant::now() + patience;
        let mut changes = self
            .log
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(failure) = &changes.1 {
                bail!("{failure}");
            }
            let news = changes.0.get(from..).unwrap_or_default();
            if enough(news) {
                return Ok(news.to_vec());
            }
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.with_context(|| {
                format!(
                    "waited {patience:?} in vain for notifications of routes: {}",
                    news.len()
                )
            })?;
            let waited = self.log.news.wait_timeout(changes, left);
            changes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything up to now, which is known to be complete: the last change is a mark made for it.
    ///
    /// # Errors
    /// As [`RouteLog::mark`] and [`RouteLog::wait`].
    pub fn all(&self) -> anyhow::Result<Vec<Change>> {
        let last = self.mark()?;
        self.wait(0, Duration::from_secs(30), |changes| {
            changes
                .iter()
                .rev()
                .any(|change| Mark::of(change) == Some(last))
        })
    }
}

impl Log {
    fn listen(&self, listener: &mut Listener) {
        let mut news = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let read = listener.read(&mut news);
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            changes.0.append(&mut news);
            if let Err(error) = &read {
                changes.1 = Some(error.to_string());
            }
            drop(changes);
            self.news.notify_all();
            if read.is_err() {
                return;
            }
        }
    }
}

impl Drop for RouteLog {
    fn drop(&mut self) {
        self.log.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
