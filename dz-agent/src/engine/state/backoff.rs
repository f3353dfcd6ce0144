//! How long to wait before what has failed is tried again.

use std::time::Duration;

/// The pause after a first failure, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pause after so many failures in a row (1 or more): it doubles up to [`LONGEST_PAUSE`].
pub(crate) fn backoff(failures: u32) -> Duration {
    (FIRST_PAUSE * (1 << failures.saturating_sub(1).min(6))).min(LONGEST_PAUSE)
}

/// A span of time as the kernel's clock counts, ns.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> = (1..=8)
            .map(|failures| backoff(failures).as_millis())
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(backoff(u32::MAX), LONGEST_PAUSE);
    }
}
