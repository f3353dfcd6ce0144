//! Runs the event thread, and the one that asks for its routes, before everything that is not real-time,
//! with their memory locked, so that a busy host delays neither routes nor our own transmissions.
//! Sessions stay Up and go Down without it: that is the kernel part's business.

use std::io;
use std::thread;

use tracing::{debug, warn};

use crate::error::{ExitCode, Failure};
use crate::settings::Realtime;

/// `SCHED_FIFO`: above the 50 that the kernel gives its interrupt threads, which packets of ours wait
/// for only where interrupts are threaded, and whoever else has chosen the middle of 1 to 99.
const PRIORITY: libc::c_int = 51;
/// Pages are locked as they are touched: stacks are mostly untouched.
const MEMORY: libc::c_int = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;

/// Gives the calling thread real-time priority, as far as is asked for and possible. Threads that it
/// starts from now on run as others do. Returns whether it has the priority.
///
/// # Errors
/// It is asked for, and the privilege is missing.
pub fn apply(choice: Realtime) -> Result<bool, Failure> {
    let outcome = match choice {
        Realtime::Off => return Ok(false),
        Realtime::Auto if processors() < 2 => {
            debug!("no real-time scheduling: with one processor it would keep everybody else out");
            return Ok(false);
        }
        Realtime::Auto | Realtime::On => schedule().and_then(|()| lock_memory()),
    };
    match outcome {
        Ok(()) => Ok(true),
        Err((what, error)) if choice == Realtime::On => {
            let text = format!(
                "--realtime on: {what}: {error}: run as root, or grant it (LimitRTPRIO={PRIORITY} and \
                 LimitMEMLOCK=infinity in a unit)"
            );
            Err(Failure::new(ExitCode::Privilege, text))
        }
        Err((what, error)) => {
            debug!(%error, "no {what}");
            Ok(false)
        }
    }
}

/// Gives the calling thread real-time priority, too, where [`apply`] has returned that its parent has it.
pub fn join() {
    if let Err((what, error)) = schedule() {
        warn!(%error, "no {what} for the thread that asks for routes");
    }
}

type Missing = (&'static str, io::Error);

/// Returns how many processors this process may use.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn schedule() -> Result<(), Missing> {
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters outlive the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(("real-time scheduling", io::Error::last_os_error())),
    }
}

fn lock_memory() -> Result<(), Missing> {
    // SAFETY: a system call without pointers.
    match unsafe { libc::mlockall(MEMORY) } {
        0 => Ok(()),
        _ => Err(("locked memory", io::Error::last_os_error())),
    }
}
