//! Waiting for a condition with a deadline: tests never sleep for a fixed time and hope.

use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::bail;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// Between two looks: short against anything that a test waits for, long enough not to take the
/// processor from what it waits for.
const PAUSE: Duration = Duration::from_millis(10);

/// Now, ns of `CLOCK_MONOTONIC`: the clock of the instants in the BPF maps.
///
/// # Panics
/// Never on Linux, which has the clock.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has CLOCK_MONOTONIC");
    u64::try_from(Duration::from(now).as_nanos()).expect("584 years of uptime")
}

/// `CLOCK_REALTIME` in ns: what the kernel stamps packets with.
pub(crate) fn realtime_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("Linux has CLOCK_REALTIME");
    u64::try_from(Duration::from(now).as_nanos()).expect("584 years since 1970")
}

/// Waits until the file is readable; false if it is not within `timeout`.
pub fn readable(file: impl AsFd, timeout: Duration) -> io::Result<bool> {
    let mut files = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut files, Some(TimeSpec::from_duration(timeout)), None) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits for a thread's end, and gets what it returns. Its panic goes on here, unless one is under way
/// already.
pub fn join<T>(thread: JoinHandle<T>) -> Option<T> {
    match thread.join() {
        Ok(returned) => Some(returned),
        Err(panic) if !std::thread::panicking() => resume_unwind(panic),
        Err(_) => None,
    }
}

/// One look at a condition: `Option` (there or not), or `Result` (there, or what was seen instead,
/// which is what the failure message then shows).
pub trait Look {
    /// What is waited for.
    type Found;
    /// What was waited for, or what was seen instead.
    ///
    /// # Errors
    /// Not there yet.
    fn look(self) -> Result<Self::Found, Option<String>>;
}

impl<T> Look for Option<T> {
    type Found = T;
    fn look(self) -> Result<T, Option<String>> {
        self.ok_or(None)
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Found = T;
    fn look(self) -> Result<T, Option<String>> {
        self.map_err(|seen| Some(format!("{seen:#}")))
    }
}

/// Looks until `what` is found, for at most `deadline`.
///
/// # Errors
/// The deadline passed; the message names `what` and what was seen last.
pub fn eventually<L: Look>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> L,
) -> anyhow::Result<L::Found> {
    let start = Instant::now();
    loop {
        // Taken before the look: one that began in time counts, however slow the machine is.
        let last = start.elapsed() >= deadline;
        match look().look() {
            Ok(found) => return Ok(found),
            Err(seen) if last => {
                let seen = seen
                    .map(|seen| format!("; last seen: {seen}"))
                    .unwrap_or_default();
                bail!("waited {deadline:?} in vain for: {what}{seen}");
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Looks again and again for the whole of `duration`, and fails as soon as `what` does not hold.
///
/// # Errors
/// What was seen instead, and when.
pub fn holds<L: Look>(
    duration: Duration,
    what: &str,
    mut look: impl FnMut() -> L,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < duration {
        if let Err(seen) = look().look() {
            let seen = seen.map(|seen| format!(": {seen}")).unwrap_or_default();
            bail!("no longer holds after {:?}: {what}{seen}", start.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_appears_late() {
        let mut looks = 0;
        let found = eventually(Duration::from_secs(60), "three looks", || {
            looks += 1;
            (looks >= 3).then_some(looks)
        });
        assert_eq!(found.expect("it appears"), 3);
    }

    #[test]
    fn says_what_it_waited_for_and_what_it_saw() {
        let none = eventually(Duration::ZERO, "a route", || None::<()>);
        assert_eq!(
            none.unwrap_err().to_string(),
            "waited 0ns in vain for: a route"
        );
        let seen = eventually(Duration::ZERO, "Up", || Err::<(), _>("Down"));
        assert_eq!(
            seen.unwrap_err().to_string(),
            "waited 0ns in vain for: Up; last seen: Down"
        );
    }

    #[test]
    fn notices_what_stops_holding() {
        let mut looks = 0;
        let broken = holds(Duration::from_secs(60), "quiet", || {
            looks += 1;
            if looks < 3 { Ok(()) } else { Err("a packet") }
        });
        let message = broken.unwrap_err().to_string();
        assert!(message.contains("quiet: a packet"), "{message}");
    }
}
