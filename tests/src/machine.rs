//! What the tests run on.

use std::fs;

/// Whether QEMU emulates the processor: it is slower by an order of magnitude, and tests with a thousand of
/// something take fewer.
#[must_use]
pub fn is_emulated() -> bool {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpus.contains("QEMU TCG")
}
