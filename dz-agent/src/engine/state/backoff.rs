//! The pauses before the kernel is asked again for something that it refused.

use std::time::Duration;

/// The pause after a first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Returns the pause after so many failures in a row (1 or more): it doubles up to [`LONGEST_PAUSE`].
pub(crate) fn backoff(failures: u32) -> Duration {
    (FIRST_PAUSE * (1 << failures.saturating_sub(1).min(6))).min(LONGEST_PAUSE)
}

/// Converts a span of time to ns, in which the kernel's clock counts.
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
