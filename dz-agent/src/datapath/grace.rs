//! Waits for kernel programs that run, for some milliseconds at most: an RCU grace period.

use std::io;
use std::sync::OnceLock;

use super::raw::barrier::Barrier;

/// `MEMBARRIER_CMD_GLOBAL`: returns after an RCU grace period (kernel/sched/membarrier.c).
const MEMBARRIER_GLOBAL: libc::c_int = 1;

/// Waits until every kernel program has ended that runs now.
///
/// # Errors
/// The kernel refuses both ways to wait.
pub fn wait_for_programs() -> io::Result<()> {
    // SAFETY: a system call without pointers.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) } {
        0 => Ok(()),
        // Refused with `nohz_full`, and by filters of system calls.
        _ => wait_by_map(),
    }
}

fn wait_by_map() -> io::Result<()> {
    static BARRIER: OnceLock<Barrier> = OnceLock::new();
    let barrier = match BARRIER.get() {
        Some(barrier) => barrier,
        None => {
            let made = Barrier::new()?;
            BARRIER.get_or_init(|| made)
        }
    };
    barrier.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_membarrier_is_refused_a_map_waits() {
        for _ in 0..2 {
            match wait_by_map() {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    eprintln!("SKIPPED: only root can make maps");
                }
                waited => waited.unwrap(),
            }
        }
    }
}
