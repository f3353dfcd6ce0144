//! Faults that a test asks for, compiled only with the feature `faults`: what the kernel can do to us
//! but does not do on demand.
//!
//! `$DZ_AGENT_FAULTS` names a folder. A file in it is a fault, its content a number; it is looked at
//! for every request, so that a test can change its mind while the agent runs:
//!
//! | file | number |
//! |---|---|
//! | `delete-delay-ms` | for so long the request to delete a route is held back, ms |
//! | `delete-refused` | error number that deleting a route is refused with |
//! | `add-refused` | error number that adding a route is refused with |
//! | `dump-interrupted` | so many dumps are called inconsistent; the file counts down and goes |

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;

use crate::net::NetlinkError;

/// Names the folder.
const VARIABLE: &str = "DZ_AGENT_FAULTS";

/// What stands in the way of a change.
///
/// # Errors
/// The test wants it refused.
pub(crate) async fn before(message: &RouteNetlinkMessage) -> Result<(), NetlinkError> {
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
    let Some(errno) = refused.and_then(|errno| i32::try_from(errno).ok()) else {
        return Ok(());
    };
    Err(NetlinkError::Refused {
        errno: Errno::from_raw(errno),
        said: Some("refused by a test".to_owned()),
    })
}

/// Whether the dump that was just read is to count as interrupted.
pub(crate) fn dump_interrupted() -> bool {
    let Some(left) = number("dump-interrupted").filter(|left| *left > 0) else {
        return false;
    };
    // The test sees the file count down, or waits in vain.
    let _ = match left - 1 {
        0 => file("dump-interrupted").map(fs::remove_file),
        left => file("dump-interrupted").map(|file| fs::write(file, left.to_string())),
    };
    true
}

fn file(name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os(VARIABLE)?).join(name))
}

fn number(name: &str) -> Option<u64> {
    fs::read_to_string(file(name)?).ok()?.trim().parse().ok()
}
