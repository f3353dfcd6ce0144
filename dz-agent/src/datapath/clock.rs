//! The clock of the kernel programs.

use std::fs;
use std::io::ErrorKind;

use nix::time::ClockId;

use crate::error::{ExitCode, FailWith, Failure};

/// The offsets of a time namespace's clocks from the host's; there is no such file without time namespaces.
const OFFSETS: &str = "/proc/self/timens_offsets";

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
pub fn now_ns() -> u64 {
    // It cannot fail for this clock.
    ClockId::CLOCK_MONOTONIC.now().map_or(0, |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
    })
}

/// Makes sure that our clock is the one of kernel programs: these have the host's, whatever time namespace a
/// process is in, and compare it with times that we write.
///
/// # Errors
/// This process is in a time namespace with another `CLOCK_MONOTONIC`, or the kernel does not say.
pub(super) fn check_clock() -> Result<(), Failure> {
    let offsets = match fs::read_to_string(OFFSETS) {
        Ok(offsets) => offsets,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).fail_with(ExitCode::Failure, || OFFSETS),
    };
    match monotonic_offset(&offsets) {
        None => Ok(()),
        Some(offset) => {
            let text = format!(
                "in a time namespace whose clock is {offset} s from the host's, which kernel programs have: start \
                 the agent outside of it"
            );
            Err(Failure::new(ExitCode::Failure, text))
        }
    }
}

/// Returns how far `CLOCK_MONOTONIC` is from the host's, in seconds as the kernel writes them; none if it is the
/// host's.
fn monotonic_offset(offsets: &str) -> Option<String> {
    let line = offsets
        .lines()
        .find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_whitespace();
    let (seconds, nanos) = (numbers.next()?, numbers.next()?);
    let is_none = seconds.parse() == Ok(0_i64) && nanos.parse() == Ok(0_u32);
    (!is_none).then(|| format!("{seconds}.{nanos:0>9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clock_of_programs_counts() {
        let offset = |monotonic: &str, boottime: &str| {
            monotonic_offset(&format!(
                "monotonic  {monotonic:>10}\nboottime   {boottime:>10}\n"
            ))
        };
        assert_eq!(offset("0         0", "86400         0"), None);
        assert_eq!(
            offset("-3         5", "0         0").as_deref(),
            Some("-3.000000005")
        );
        assert_eq!(
            offset("0         1", "0         0").as_deref(),
            Some("0.000000001")
        );
        assert_eq!(monotonic_offset(""), None);
    }
}
