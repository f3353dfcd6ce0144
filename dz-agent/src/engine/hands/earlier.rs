//! Deals with what earlier agents have left: the kernel part of a version with another map layout, and programs of dead agents with
//! pins elsewhere.

use std::path::Path;

use tracing::{info, warn};

use crate::datapath::{self, Settings, keep_types, strays};
use crate::error::{ExitCode, FailWith, Failure};
use crate::net::{Netlink, links};

/// Takes over the kernel part of an earlier version, and keeps the types of our own maps for a later one.
///
/// # Errors
/// It cannot be taken over, and goes on as it was.
pub(crate) fn take_over(settings: &Settings) -> Result<(), Failure> {
    datapath::take_over(settings)?;
    if let Err(failure) = keep_types(&settings.state_dir) {
        warn!(
            "types of the maps not kept, so that a later version needs CAP_SYS_ADMIN to take them over: {failure}"
        );
    }
    Ok(())
}

/// Takes programs of ours that no pin holds off the interfaces, which are locked: no agent that runs has put them there. Without
/// the right to look for them they stay; ours run before them.
///
/// # Errors
/// The kernel could not be asked, or keeps one.
pub(crate) async fn remove_strays(pin_dir: &Path, interfaces: &[String]) -> Result<(), Failure> {
    let netlink = Netlink::open().fail_with(ExitCode::Failure, || "netlink")?;
    let found = links::list(&netlink).await;
    let mut found = found.fail_with(ExitCode::Failure, || "reading the interfaces")?;
    found.retain(|interface| interfaces.contains(&interface.name));
    let strays = match strays(pin_dir, &found) {
        // Programs of others are there, whose names only `prepare` may read.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(()),
        strays => strays.fail_with(ExitCode::Failure, || "looking for programs of dead agents")?,
    };
    for stray in strays {
        let (interface, program) = (stray.interface.as_str(), stray.program.as_str());
        match stray.detach() {
            Ok(()) => info!(
                interface,
                program, "taken off: a dead agent had left it, with pins elsewhere"
            ),
            // Its device is gone, say.
            Err(error) => warn!(interface, program, %error, "a dead agent's program stays"),
        }
    }
    Ok(())
}
