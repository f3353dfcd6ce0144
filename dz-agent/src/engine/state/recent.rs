//! The times at which something has happened last: enough to tell whether it happens too often.

/// Something counts for so long, ns.
pub(super) const WINDOW_NS: u64 = 30_000_000_000;

/// The times of the last `N` of something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recent<const N: usize> {
    at_ns: [u64; N],
    next: usize,
    /// How many there are.
    noted: usize,
}

impl<const N: usize> Default for Recent<N> {
    fn default() -> Self {
        Self {
            at_ns: [0; N],
            next: 0,
            noted: 0,
        }
    }
}

impl<const N: usize> Recent<N> {
    /// Says whether there have been `N` within the window.
    pub(super) fn is_full(&self, now_ns: u64) -> bool {
        let oldest_ns = self.at_ns.get(self.next).copied().unwrap_or_default();
        self.noted == N && now_ns.saturating_sub(oldest_ns) <= WINDOW_NS
    }

    /// Notes one more. Returns whether it is one more than `N` within the window.
    pub(super) fn add(&mut self, at_ns: u64) -> bool {
        let was_full = self.is_full(at_ns);
        if let Some(oldest_ns) = self.at_ns.get_mut(self.next) {
            *oldest_ns = at_ns;
        }
        self.next = (self.next + 1) % N;
        self.noted = N.min(self.noted + 1);
        was_full
    }

    /// Says whether there has been any within the window.
    pub(super) fn has_any(&self, now_ns: u64) -> bool {
        let last_ns = self.at_ns.get((self.next + N - 1) % N);
        let is_recent = |at_ns: &u64| now_ns.saturating_sub(*at_ns) <= WINDOW_NS;
        self.noted > 0 && last_ns.is_some_and(is_recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_NS: u64 = 5_000_000_000;

    #[test]
    fn one_more_than_so_many_within_the_window_is_too_many() {
        let mut recent = Recent::<3>::default();
        assert!(!recent.has_any(NOW_NS) && !recent.is_full(NOW_NS));
        let added = [0, 1, 2, 3].map(|at_ns| recent.add(NOW_NS + at_ns));
        assert_eq!(added, [false, false, false, true]);
        // The oldest of the last three is at 1.
        assert!(recent.is_full(NOW_NS + WINDOW_NS + 1));
        assert!(!recent.is_full(NOW_NS + WINDOW_NS + 2));
        assert!(!recent.add(NOW_NS + WINDOW_NS + 2));
        assert!(recent.add(NOW_NS + WINDOW_NS + 2), "the oldest is at 2 now");
    }

    #[test]
    fn the_last_one_tells_whether_there_is_any() {
        let mut recent = Recent::<2>::default();
        recent.add(NOW_NS);
        assert!(recent.has_any(NOW_NS + WINDOW_NS) && !recent.has_any(NOW_NS + WINDOW_NS + 1));
        recent.add(NOW_NS + 7);
        assert!(recent.has_any(NOW_NS + WINDOW_NS + 7));
    }
}
