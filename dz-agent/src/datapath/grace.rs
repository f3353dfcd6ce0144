//! Waits for kernel programs that run.

use std::time::Duration;

/// `MEMBARRIER_CMD_GLOBAL`: returns after an RCU grace period (kernel/sched/membarrier.c).
const MEMBARRIER_GLOBAL: libc::c_int = 1;
/// How long to wait where the kernel refuses that (`nohz_full`). No program runs that long.
const REST: Duration = Duration::from_secs(1);

/// Waits until every kernel program has ended that runs now.
pub fn wait_for_programs() {
    // SAFETY: a system call without pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(REST);
    }
}
