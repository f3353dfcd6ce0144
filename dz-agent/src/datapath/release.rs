//! Letting go of programs on interfaces.

use std::fs;
use std::io;
use std::path::Path;

use super::raw::link;

/// Takes a link's program off its device, and the pin away.
///
/// The last reference alone would do it as well, but some moments later: the kernel lets go of a link
/// on a work queue (bpf_link_put). Whoever is told that nothing of ours is left may look at once.
///
/// # Errors
/// The pin is not there, or cannot be removed.
pub(super) fn unpin_link(pin: &Path) -> io::Result<()> {
    // With its device gone, or a kernel that detaches no such link, the pin's end does it.
    let _ = link::detach(pin);
    fs::remove_file(pin)
}
