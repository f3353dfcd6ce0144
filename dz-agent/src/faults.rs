//! Produces faults that a test asks for: errors and delays of the kernel that cannot be had from it on
//! demand. Compiled only with the feature `faults`.
//!
//! `$DZ_AGENT_FAULTS` names a folder. A file in it is a fault, its content a number; it is looked at
//! for every request, so that a test can change its mind while the agent runs:
//!
//! | file | number |
//! |---|---|
//! | `delete-delay-ms` | for so long the request to delete a route is held back, ms |
//! | `delete-refused` | error number that deleting a route is refused with |
//! | `add-refused` | error number that adding a route is refused with |
//! | `session-delete-refused` | error number that deleting a session is refused with |
//! | `dump-interrupted` | the next so many dumps are called inconsistent |
//! | `left-after-ms` | for so long a followed peer is Down and silent before it has left, ms |
//! | `loop-fails` | error number that the engine's loop ends with |
//! | `die-in-takeover` | so many steps of a takeover are done, then the agent is gone; counts down |

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::sys::SyscallError;
use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;

/// The environment variable that names the folder.
const VARIABLE: &str = "DZ_AGENT_FAULTS";

/// Delays or refuses a change of a route, if the test wants that.
///
/// # Errors
/// The test wants it refused.
pub(crate) async fn before(message: &RouteNetlinkMessage) -> Result<(), Errno> {
    let refused = match message {
        RouteNetlinkMessage::NewRoute(_) => number("add-refused"),
        RouteNetlinkMessage::DelRoute(_) => {
            if let Some(delay_ms) = number("delete-delay-ms") {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            number("delete-refused")
        }
        _ => None,
    };
    match refused {
        None => Ok(()),
        Some(errno) => Err(Errno::from_raw(errno)),
    }
}

/// Refuses the deletion of a session, if the test wants that.
///
/// # Errors
/// The test wants it refused.
pub(crate) fn before_session_delete() -> Result<(), SyscallError> {
    number("session-delete-refused").map_or(Ok(()), |errno| {
        Err(SyscallError {
            call: "bpf_map_delete_elem",
            io_error: io::Error::from_raw_os_error(errno),
        })
    })
}

/// Says whether the dump that was just read counts as interrupted.
pub(crate) fn dump_interrupted() -> bool {
    /// The file that was counted last, by inode and time, and the dumps that were interrupted for it. The
    /// engine and the API's thread dump at the same time.
    static COUNTED: Mutex<((u64, i64, i64), u32)> = Mutex::new(((0, 0, 0), 0));
    let found = file("dump-interrupted").and_then(|file| fs::metadata(file).ok());
    let (Some(found), Some(wanted)) = (found, number::<u32>("dump-interrupted")) else {
        return false;
    };
    let identity = (found.ino(), found.mtime(), found.mtime_nsec());
    let mut counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    if counted.0 != identity {
        *counted = (identity, 0);
    }
    counted.1 = counted.1.saturating_add(1);
    counted.1 <= wanted
}

/// Ends the engine's loop with an error, if the test wants that.
///
/// # Errors
/// The test wants one.
pub(crate) fn turn() -> io::Result<()> {
    number("loop-fails").map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

/// Returns after how long a silent peer has left, ms, if the test wants another time than usual.
pub(crate) fn left_after_ms() -> Option<u64> {
    number("left-after-ms")
}

fn file(name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os(VARIABLE)?).join(name))
}

fn number<T: FromStr>(name: &str) -> Option<T> {
    fs::read_to_string(file(name)?).ok()?.trim().parse().ok()
}

/// Ends the process after the step of a takeover that the test names: the number in the file counts
/// down with each step.
pub(crate) fn takeover_step() {
    let Some(left) = number::<u64>("die-in-takeover") else {
        return;
    };
    if left == 0 {
        std::process::abort();
    }
    // If the file does not count down, the test sees an agent that starts.
    let _ = file("die-in-takeover").map(|file| fs::write(file, (left - 1).to_string()));
}
