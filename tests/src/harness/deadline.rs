//! A deadline for each test: what hangs fails, by its name.
//!
//! A thread cannot be ended from outside, and what a test that hangs holds (a lock, the processor) may
//! hang others. So the first test that is over its deadline ends the whole program: a thread of the
//! harness reports it as failed and all others as what they are, passed only if they were over by then;
//! it kills every process that the tests have started, and removes their namespaces and pins.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::{bpffs, children, netns};

/// For a test that names no other ([`super::Test::within`]). On a machine of our own the slowest takes 20 s,
/// and most take less than 5 s: this is for what would never end.
pub(super) const DEADLINE: Duration = Duration::from_secs(400);
/// Takes the place of every test's deadline, in seconds: for long runs by hand, and for debuggers.
const VARIABLE: &str = "DZ_DEADLINE";
/// How often the thread looks: often against any deadline.
const PAUSE: Duration = Duration::from_millis(200);
/// How libtest-mimic's programs end when a test has failed.
const FAILED: i32 = 101;

/// The tests of this program, and how far each has come.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    name: String,
    within: Duration,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    /// The command line does not ask for it.
    LeftOut,
    Running {
        since: Instant,
    },
    Passed {
        took: Duration,
    },
    Skipped,
    /// With its message, which would else be printed at the very end.
    Failed(String),
}

/// How a test ended.
pub(super) enum Ended<'a> {
    Passed,
    Skipped,
    /// With this message.
    Failed(&'a str),
}

/// One test's place in the progress. Dropped before it has begun, it is left out: libtest-mimic drops what
/// the command line does not ask for before it runs the rest.
#[derive(Debug)]
pub(super) struct Place {
    progress: Arc<Progress>,
    index: usize,
}

impl Progress {
    /// Adds a test with its deadline.
    pub(super) fn add(self: &Arc<Self>, name: &str, within: Duration) -> Place {
        let mut entries = self.lock();
        entries.push(Entry {
            name: name.to_owned(),
            within,
            stage: Stage::Waiting,
        });
        Place {
            progress: Arc::clone(self),
            index: entries.len() - 1,
        }
    }

    /// Starts the thread that ends the program when a test is over its deadline.
    ///
    /// # Errors
    /// No thread, or a deadline in the environment that is no number.
    pub(super) fn watch(self: &Arc<Self>) -> anyhow::Result<()> {
        if let Some(seconds) = std::env::var_os(VARIABLE) {
            let seconds = seconds.to_str().and_then(|seconds| seconds.parse().ok());
            let within = Duration::from_secs(seconds.context(VARIABLE)?);
            self.lock()
                .iter_mut()
                .for_each(|entry| entry.within = within);
        }
        let progress = Arc::clone(self);
        let watch = move || {
            loop {
                thread::sleep(PAUSE);
                // Held to the end: from now on no test passes any more.
                let entries = progress.lock();
                if let Some(report) = report(&entries, Instant::now()) {
                    end(&report);
                }
            }
        };
        thread::Builder::new()
            .name("deadlines".to_owned())
            .spawn(watch)?;
        Ok(())
    }

    /// The test that took the longest of those that have passed, with its time and its deadline.
    pub(super) fn slowest(&self) -> Option<String> {
        let entries = self.lock();
        let passed = entries.iter().filter_map(|entry| match entry.stage {
            Stage::Passed { took } => Some((took, entry)),
            _ => None,
        });
        let (took, entry) = passed.max_by_key(|(took, _)| *took)?;
        Some(format!(
            "slowest: {}, {:.1} s of {} s",
            entry.name,
            took.as_secs_f64(),
            entry.within.as_secs()
        ))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The test begins.
    pub(super) fn begin(&self) {
        self.set(Stage::Running {
            since: Instant::now(),
        });
    }

    /// The test is over.
    pub(super) fn end(&self, ended: Ended<'_>) {
        let stage = match ended {
            Ended::Passed => Stage::Passed { took: self.took() },
            Ended::Skipped => Stage::Skipped,
            Ended::Failed(message) => Stage::Failed(message.to_owned()),
        };
        self.set(stage);
    }

    fn took(&self) -> Duration {
        match self.progress.lock()[self.index].stage {
            Stage::Running { since } => since.elapsed(),
            _ => Duration::ZERO,
        }
    }

    fn set(&self, stage: Stage) {
        self.progress.lock()[self.index].stage = stage;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let stage = &mut self.progress.lock()[self.index].stage;
        if matches!(stage, Stage::Waiting) {
            *stage = Stage::LeftOut;
        }
    }
}

/// What is to be printed, in libtest's words, if a test is over its deadline by now.
fn report(entries: &[Entry], now: Instant) -> Option<String> {
    let (mut passed, mut skipped) = (0, 0);
    let mut failures = Vec::new();
    let mut hung = Vec::new();
    let mut unfinished = Vec::new();
    for entry in entries {
        match &entry.stage {
            Stage::Running { since } if now.saturating_duration_since(*since) > entry.within => {
                let message = format!("not over after {:?}, its deadline", entry.within);
                hung.push(entry.name.as_str());
                failures.push((entry.name.as_str(), message));
            }
            Stage::Running { .. } => unfinished.push((&entry.name, "cut short")),
            Stage::Waiting => unfinished.push((&entry.name, "not begun")),
            Stage::Failed(message) => failures.push((entry.name.as_str(), message.clone())),
            Stage::Passed { .. } => passed += 1,
            Stage::Skipped => skipped += 1,
            Stage::LeftOut => {}
        }
    }
    let first = hung.first()?;
    let mut report = Report::default();
    for name in &hung {
        report.line(format_args!("test {name} ... FAILED"));
    }
    report.line(format_args!("\nfailures:"));
    for (name, message) in &failures {
        report.line(format_args!("\n---- {name} ----\n{message}"));
    }
    for (name, how) in &unfinished {
        report.line(format_args!(
            "\nSKIPPED {name}: {how}, because {first} hangs"
        ));
    }
    report.line(format_args!(
        "test result: FAILED. {passed} passed; {} failed; {} ignored; 0 measured; 0 filtered out",
        failures.len(),
        skipped + unfinished.len(),
    ));
    Some(report.0)
}

/// Begins on a line of its own: libtest-mimic may be in the middle of one.
#[derive(Debug)]
struct Report(String);

impl Default for Report {
    fn default() -> Self {
        Self("\n".to_owned())
    }
}

impl Report {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        let _ = writeln!(self.0, "{line}"); // a String takes everything
    }
}

fn end(report: &str) -> ! {
    let _ = std::io::stdout().write_all(report.as_bytes());
    let (logs, killed) = (children::logs(), children::kill_descendants());
    let mut left = String::new();
    for (title, log) in logs {
        let _ = writeln!(left, "---- {title}, so far ----\n{log}");
    }
    for (pid, line) in killed {
        let _ = writeln!(left, "killed: {pid} {line}");
    }
    let _ = std::io::stdout().write_all(left.as_bytes());
    netns::remove_ours();
    bpffs::remove_ours();
    std::process::exit(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn progress(names: &[&str]) -> (Arc<Progress>, Vec<Place>) {
        let progress = Arc::new(Progress::default());
        let places = names.iter().map(|name| progress.add(name, SECOND));
        let places = places.collect();
        (progress, places)
    }

    #[test]
    fn in_time_nothing_is_reported() {
        let (progress, places) = progress(&["a", "b"]);
        places[0].begin();
        assert_eq!(report(&progress.lock(), Instant::now()), None);
        // What is over, however late, and what has not begun are not watched.
        places[0].end(Ended::Passed);
        let late = Instant::now() + 100 * SECOND;
        assert_eq!(report(&progress.lock(), late), None);
    }

    #[test]
    fn each_test_has_its_own_deadline() {
        let progress = Arc::new(Progress::default());
        let (short, long) = (
            progress.add("short", SECOND),
            progress.add("long", 9 * SECOND),
        );
        long.begin();
        let after = |seconds: u32| report(&progress.lock(), Instant::now() + seconds * SECOND);
        assert_eq!(after(8), None);
        assert!(after(10).is_some_and(|report| report.contains("test long ... FAILED")));
        short.begin();
        assert!(after(2).is_some_and(|report| report.contains("test short ... FAILED")));
    }

    #[test]
    fn what_hangs_fails_and_nothing_unfinished_passes() {
        let names = [
            "good", "skipped", "bad", "hangs", "beside", "later", "unasked",
        ];
        let (progress, mut places) = progress(&names);
        places.pop(); // as libtest-mimic drops what is filtered out
        for place in &places[..4] {
            place.begin();
        }
        places[0].end(Ended::Passed);
        places[1].end(Ended::Skipped);
        places[2].end(Ended::Failed("cause"));
        progress.lock()[4] = Entry {
            name: "beside".to_owned(),
            within: 9 * SECOND,
            stage: Stage::Running {
                since: Instant::now(),
            },
        };
        let report = report(&progress.lock(), Instant::now() + 2 * SECOND);
        assert_eq!(
            report.expect("a test hangs"),
            "\ntest hangs ... FAILED\n\nfailures:\n\n---- bad ----\ncause\n\n\
             ---- hangs ----\nnot over after 1s, its deadline\n\
             \nSKIPPED beside: cut short, because hangs hangs\n\
             \nSKIPPED later: not begun, because hangs hangs\n\
             test result: FAILED. 1 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out\n"
        );
    }
}
