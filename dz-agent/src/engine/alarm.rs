//! The loop's alarm, a `timerfd`, in nanoseconds. The runtime's timers are in milliseconds, and each
//! that is earlier than all others costs a wake-up of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use crate::datapath::readable;

/// An alarm that is set to a moment of `CLOCK_MONOTONIC`, or to none, which it is after it has rung.
pub(super) struct Alarm {
    timer: AsyncFd<Timer>,
    set_ns: Option<u64>,
}

/// The descriptor, as [`AsyncFd`] wants it.
struct Timer(TimerFd);

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// Makes an alarm that is set to none. Needs a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Self {
            timer: readable(Timer(timer))?,
            set_ns: None,
        })
    }

    /// Sets the alarm to `at_ns` instead of what it was set to. A moment that has passed rings immediately.
    pub(super) fn set(&mut self, at_ns: u64) -> io::Result<()> {
        if self.set_ns == Some(at_ns) {
            return Ok(());
        }
        // 0 would disarm the timer.
        let at = TimeSpec::from_duration(Duration::from_nanos(at_ns.max(1)));
        let timer = &self.timer.get_ref().0;
        timer.set(
            Expiration::OneShot(at),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME,
        )?;
        self.set_ns = Some(at_ns);
        Ok(())
    }

    /// Waits until the alarm rings; then it is set to none.
    ///
    /// # Errors
    /// The runtime is going down.
    pub(super) async fn rings(&mut self) -> io::Result<()> {
        // The descriptor need not be read: setting the timer anew resets its count of expirations.
        self.timer.readable().await?.clear_ready();
        self.set_ns = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::now_ns;

    const MS: u64 = 1_000_000;
    const LONG: Duration = Duration::from_secs(60);

    async fn rung(alarm: &mut Alarm) {
        tokio::time::timeout(LONG, alarm.rings())
            .await
            .expect("an alarm that rings")
            .unwrap();
    }

    #[tokio::test]
    async fn it_rings_when_it_is_time_and_once() {
        let mut alarm = Alarm::new().unwrap();
        for wait_ns in [0, MS, 3 * MS] {
            let at_ns = now_ns() + wait_ns;
            alarm.set(at_ns).unwrap();
            rung(&mut alarm).await;
            assert!(now_ns() >= at_ns);
        }
        let later = tokio::time::timeout(Duration::from_millis(5), alarm.rings());
        assert!(later.await.is_err(), "it has rung already");
    }

    #[tokio::test]
    async fn what_was_set_last_counts() {
        let mut alarm = Alarm::new().unwrap();
        alarm.set(1).unwrap();
        alarm.set(now_ns() + LONG.as_nanos() as u64).unwrap();
        let later = tokio::time::timeout(Duration::from_millis(5), alarm.rings());
        assert!(later.await.is_err(), "it was set to later");
        alarm.set(now_ns()).unwrap();
        rung(&mut alarm).await;
    }
}
