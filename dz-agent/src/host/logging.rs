//! Logs on standard error, with a limit on floods.
//!
//! Each callsite may write `BURST` lines per second. Further lines are counted, and their number is
//! logged in one line. A thread of its own writes ([`LogQueue`]): nobody waits for a reader of standard error.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::HashMap;
use std::fmt::Display;
use std::panic;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::log_queue::LogQueue;
use crate::error::{ExitCode, FailWith, Failure};
use crate::printable::printable;
use crate::settings::LogFormat;

/// Lines of one callsite per [`PERIOD`].
pub(crate) const BURST: u32 = 20;
const PERIOD: Duration = Duration::from_secs(1);
/// How long the end of the process waits for its last lines to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// The queue of this process, once logging has started.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Starts logging, once per process.
///
/// # Errors
/// The thread that writes cannot be started, or logging has been started before.
pub fn init(format: LogFormat, level: LevelFilter) -> Result<FloodLimit, Failure> {
    let limit = FloodLimit::new(BURST, PERIOD);
    let queue = LogQueue::start(|lines| {
        tracing::warn!(lines, "log lines dropped: nobody has read standard error")
    });
    let queue = queue.fail_with(ExitCode::Failure, || "thread of the log")?;
    let queue = QUEUE.get_or_init(|| queue).clone();
    // The default hook writes to standard error itself, and would wait for a reader.
    panic::set_hook(Box::new(|panicked| {
        last_words(panicked);
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            last_words(trace);
        }
    }));
    let lines = fmt::layer().with_writer(queue);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(limit.clone()))
        .with(targets(level))
        .try_init()
        .fail_with(ExitCode::Failure, || "log")?;
    Ok(limit)
}

/// Returns how many lines were dropped because nobody has read standard error.
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, LogQueue::dropped)
}

/// Writes the last line of a process to standard error, after its log, and waits for the line to be written:
/// for a second at most where logging has started.
pub fn last_words(text: impl Display) {
    let text = text.to_string();
    let text = printable(&text);
    match QUEUE.get() {
        Some(queue) => {
            queue.push(format!("{text}\n").into_bytes());
            queue.flush(PATIENCE);
        }
        None => eprintln!("{text}"),
    }
}

/// Waits until the log is written, for a second at most.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(PATIENCE);
    }
}

/// Selects our lines at `level`, and of libraries only warnings, for one start of aya alone fills pages.
fn targets(level: LevelFilter) -> Targets {
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("dz_agent", level)
        .with_target("dz_ebpf", level)
        // It warns of each answer that nobody waits for any more: everybody who gives up on /metrics
        // could fill the log. Its failures are told by its callers.
        .with_target("netlink_proto", level.min(LevelFilter::ERROR))
}

/// The limit on floods; clones share it.
#[derive(Clone, Debug)]
pub struct FloodLimit {
    burst: u32,
    period: Duration,
    callsites: Arc<Mutex<HashMap<Identifier, Callsite>>>,
}

#[derive(Debug)]
struct Callsite {
    metadata: &'static Metadata<'static>,
    allowance: Allowance,
}

#[derive(Debug)]
struct Allowance {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            suppressed: 0,
        }
    }

    fn admit(&mut self, now: Instant, burst: u32, period: Duration) -> bool {
        if now.saturating_duration_since(self.since) >= period {
            self.since = now;
            self.lines = 0;
        }
        if self.lines < burst {
            self.lines += 1;
            return true;
        }
        self.suppressed += 1;
        false
    }
}

impl FloodLimit {
    fn new(burst: u32, period: Duration) -> Self {
        Self {
            burst,
            period,
            callsites: Arc::default(),
        }
    }

    /// Writes one line for each callsite that has been silenced since the last report. To be called
    /// about once a second.
    pub fn report(&self) {
        for (metadata, suppressed) in self.take_suppressed() {
            tracing::warn!(
                suppressed,
                target = metadata.target(),
                line = metadata.line(),
                "log lines suppressed"
            );
        }
    }

    // Collected first: writing the report takes the same lock.
    fn take_suppressed(&self) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut callsites = self
            .callsites
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = callsites.values_mut().map(
            |Callsite {
                 metadata,
                 allowance,
             }| { (*metadata, std::mem::take(&mut allowance.suppressed)) },
        );
        taken.filter(|(_, suppressed)| *suppressed > 0).collect()
    }

    fn admit(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut callsites = self
            .callsites
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let callsite = callsites
            .entry(metadata.callsite())
            .or_insert_with(|| Callsite {
                metadata,
                allowance: Allowance::new(now),
            });
        callsite.allowance.admit(now, self.burst, self.period)
    }
}

impl<S: Subscriber> Filter<S> for FloodLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admit(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_is_cut_and_told() {
        let limit = FloodLimit::new(3, Duration::from_secs(3600));
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(limit.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for i in 0..100 {
                tracing::info!(i, "flood");
            }
            tracing::info!("elsewhere");
            limit.report();
            limit.report();
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("flood").count(), 3, "{text}");
        assert_eq!(text.matches("elsewhere").count(), 1, "{text}");
        assert_eq!(text.matches("suppressed=97").count(), 1, "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn libraries_warn_but_not_of_answers_that_nobody_waits_for() {
        use tracing::Level;

        let targets = targets(LevelFilter::INFO);
        assert!(targets.would_enable("dz_agent::engine", &Level::INFO));
        assert!(targets.would_enable("aya", &Level::WARN));
        assert!(!targets.would_enable("aya", &Level::INFO));
        assert!(!targets.would_enable("netlink_proto::connection", &Level::WARN));
        assert!(targets.would_enable("netlink_proto::connection", &Level::ERROR));
    }

    #[test]
    fn a_new_period_has_a_new_allowance() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert!(allowance.admit(start, 1, PERIOD));
        assert!(!allowance.admit(start, 1, PERIOD));
        assert!(allowance.admit(start + PERIOD, 1, PERIOD));
    }
}
