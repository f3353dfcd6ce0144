//! Releases a program from an interface: by removing its link's pin, or its filter.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;

use super::clsact;
use super::raw::link;

/// The link or filter that holds a program on an interface.
#[derive(Debug)]
pub(super) enum ProgramHolder {
    /// A pinned link.
    Pin(PathBuf),
    /// A filter of the interface.
    Filter(String, TcAttachType),
}

impl ProgramHolder {
    /// Takes the program off the interface. That it is gone already is no error.
    pub(super) fn release(self) -> io::Result<()> {
        match self {
            Self::Filter(interface, hook) => {
                clsact::detach(&interface, hook);
                Ok(())
            }
            Self::Pin(pin) => match unpin_link(&pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }
}

/// Takes a link's program off its device, and the pin away.
///
/// The last reference alone would do it as well, but some moments later: the kernel lets go of a link
/// on a work queue (bpf_link_put). A caller that is told that nothing of ours is left may look at once.
///
/// # Errors
/// The pin is not there, or cannot be removed.
pub(super) fn unpin_link(pin: &Path) -> io::Result<()> {
    // With its device gone, or a kernel that detaches no such link, the pin's end does it.
    let _ = link::detach(pin);
    fs::remove_file(pin)
}
