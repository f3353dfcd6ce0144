//! Attaches programs in TC below Linux 6.6, which has no TCX links: as filters of the clsact qdisc.
//!
//! A filter belongs to its device, not to a file descriptor or a pin, so it outlives the agent by
//! itself; it is found again by its priority and handle.

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::causes::os_error;

/// Our filter's priority. The filter with the lowest runs first; ours runs after filters with numbers
/// that other programs have chosen (up to 1,000 or so), and before those whose number they have left
/// to the kernel (49,152 and below).
pub(super) const PRIORITY: u16 = 44_880;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Attaches a program at ingress or egress, or puts it into the place of an earlier one of ours without a gap.
pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    hook: TcAttachType,
) -> Result<(), ProgramError> {
    match qdisc_add_clsact(interface) {
        // Somebody's programs are there already, perhaps our own.
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(error) if is_exists(&error) => {}
        Err(error) => return Err(error.into()),
    }
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    let created = program.attach_with_options(interface, hook, options);
    let id = match created {
        Ok(id) => id,
        Err(ProgramError::TcError(error)) if is_exists(&error) => {
            let earlier = ours(interface, hook).map_err(TcError::IoError)?;
            program.attach_to_link(earlier)?
        }
        Err(error) => return Err(error),
    };
    // Dropping the link would take the filter away.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Takes our filter away. That it is gone already, perhaps with its device, is no error.
pub(super) fn detach(interface: &str, hook: TcAttachType) {
    if let Ok(link) = ours(interface, hook) {
        drop(link);
    }
}

fn ours(interface: &str, hook: TcAttachType) -> Result<SchedClassifierLink, std::io::Error> {
    SchedClassifierLink::attached(interface, hook, PRIORITY, HANDLE, None)
}

/// Says whether an error is EEXIST, which aya has in several variants.
fn is_exists(error: &TcError) -> bool {
    os_error(error) == Some(libc::EEXIST)
}
