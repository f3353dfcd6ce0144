//! Time: a number that somebody else sets, and those who wait for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The time of a machine. Clones show the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    now_ns: u64,
    /// Who sleeps, by until when and in which order they came.
    sleepers: BTreeMap<(u64, u64), Waker>,
    came: u64,
}

impl Clock {
    /// Returns the time, ns.
    pub(super) fn now_ns(&self) -> u64 {
        self.0.borrow().now_ns
    }

    /// Sets the time, and wakes those whose time has come.
    pub(super) fn set(&self, now_ns: u64) {
        let mut state = self.0.borrow_mut();
        state.now_ns = now_ns;
        let later = state.sleepers.split_off(&(now_ns.saturating_add(1), 0));
        let due = std::mem::replace(&mut state.sleepers, later);
        // A waker may have something done at once.
        drop(state);
        due.into_values().for_each(Waker::wake);
    }

    /// Returns when the first of those who sleep is to be woken, ns.
    pub(super) fn next_wake_ns(&self) -> Option<u64> {
        let state = self.0.borrow();
        state.sleepers.keys().next().map(|(at_ns, _)| *at_ns)
    }

    /// Waits for that long.
    pub(super) fn sleep(&self, pause: Duration) -> Sleep {
        let pause_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        Sleep {
            until_ns: self.now_ns().saturating_add(pause_ns),
            clock: self.clone(),
            sleeps_as: None,
        }
    }
}

/// Ends when its time has come.
#[derive(Debug)]
pub struct Sleep {
    clock: Clock,
    until_ns: u64,
    sleeps_as: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.clock.0.borrow_mut();
        if state.now_ns >= this.until_ns {
            return Poll::Ready(());
        }
        let sleeps_as = *this.sleeps_as.get_or_insert_with(|| {
            state.came += 1;
            (this.until_ns, state.came)
        });
        state.sleepers.insert(sleeps_as, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(sleeps_as) = self.sleeps_as {
            self.clock.0.borrow_mut().sleepers.remove(&sleeps_as);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn sleepers_are_woken_when_their_time_has_come() {
        let clock = Clock::default();
        clock.set(1_000);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let mut sleep = Box::pin(clock.sleep(Duration::from_nanos(50)));
        let mut longer = Box::pin(clock.sleep(Duration::from_nanos(90)));
        assert_eq!(clock.next_wake_ns(), None, "they have not begun");
        assert!(longer.as_mut().poll(&mut context).is_pending());
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        assert_eq!(clock.next_wake_ns(), Some(1_050));

        clock.set(1_049);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        clock.set(1_050);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(sleep.as_mut().poll(&mut context).is_ready());
        assert!(longer.as_mut().poll(&mut context).is_pending());
        assert_eq!(clock.next_wake_ns(), Some(1_090));
        drop(longer);
        assert_eq!(clock.next_wake_ns(), None, "nobody waits any more");
    }
}
