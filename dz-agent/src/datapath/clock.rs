//! Reads the clock of the kernel programs.

use nix::time::ClockId;

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
pub fn now_ns() -> u64 {
    // It cannot fail for this clock.
    ClockId::CLOCK_MONOTONIC.now().map_or(0, |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
    })
}
