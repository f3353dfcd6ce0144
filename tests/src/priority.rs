//! Who runs first when the machine is busy: tests that count packets per interval measure the agent,
//! not what else the machine has to do. And where.

use std::io;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The highest priority of ordinary threads (`nice -n -20`).
const HIGHEST: libc::c_int = -20;

/// Gives a thread, or the first thread of a process, the highest ordinary priority; 0 is the calling
/// thread.
///
/// # Errors
/// No privilege, or no such thread.
pub fn raise(thread: u32) -> io::Result<()> {
    // SAFETY: a system call without pointers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, HIGHEST) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the calling thread, and those that it starts, run before everybody with a lower priority of 1 to
/// 99, until it waits (`SCHED_FIFO`).
///
/// # Errors
/// No privilege, or no such priority.
pub fn first_in_first_out(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameters outlive the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the calling thread, and those that it starts, run on one CPU only.
///
/// # Errors
/// There is no such CPU.
pub fn run_on(cpu: usize) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}
