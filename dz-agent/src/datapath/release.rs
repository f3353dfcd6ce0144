//! Holds a program on an interface, by a pinned link or a filter, and releases it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;

use super::clsact;
use super::raw::call::open_pin;
use super::raw::link;

/// The link or filter that holds a program on an interface.
#[derive(Debug)]
pub(super) enum ProgramHolder {
    /// A link.
    Link(HeldLink),
    /// A filter of the interface.
    Filter(String, TcAttachType),
}

/// A pinned link, open: a pin that somebody removes takes nothing off the interface.
#[derive(Debug)]
pub(super) struct HeldLink {
    link: OwnedFd,
    id: u32,
    pin: PathBuf,
}

impl HeldLink {
    /// Opens the link of a pin.
    pub(super) fn open(pin: PathBuf) -> io::Result<Self> {
        let link = open_pin(&pin)?;
        let id = link::facts(link.as_fd())?.id;
        Ok(Self { link, id, pin })
    }

    /// Opens the link of a pin, if there is one.
    pub(super) fn find(pin: &Path) -> io::Result<Option<Self>> {
        match Self::open(pin.to_owned()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// Removes its pin. It stays where it is while this value lives.
    pub(super) fn unpin(&self) -> io::Result<()> {
        fs::remove_file(&self.pin)
    }

    /// Takes the program off its device, see [`Self::release`].
    pub(super) fn detach(self) {
        let _ = link::detach(self.link.as_fd());
    }

    /// Pins it again, if its pin is gone or another link's. Says whether that was so.
    pub(super) fn keep_pin(&self) -> io::Result<bool> {
        match link::pinned_facts(&self.pin) {
            Ok(pinned) if pinned.id == self.id => return Ok(false),
            Ok(_) => fs::remove_file(&self.pin)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        link::pin(self.link.as_fd(), &self.pin)?;
        Ok(true)
    }

    /// Takes the program off its device, and the pin away if it is there.
    ///
    /// The last reference alone would do it as well, but some moments later: the kernel lets go of a link
    /// on a work queue (bpf_link_put). A caller that is told that nothing of ours is left may look at once.
    fn release(self) -> io::Result<()> {
        // With its device gone, or a kernel that detaches no such link, the end of pin and descriptor does it.
        let _ = link::detach(self.link.as_fd());
        match fs::remove_file(&self.pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl ProgramHolder {
    /// Takes the program off the interface. That it is gone already is no error.
    pub(super) fn release(self) -> io::Result<()> {
        match self {
            Self::Filter(interface, hook) => {
                clsact::detach(&interface, hook);
                Ok(())
            }
            Self::Link(link) => link.release(),
        }
    }
}

/// Takes a pinned link's program off its device, and the pin away; see [`HeldLink::release`].
///
/// # Errors
/// The pin is not there, or cannot be removed.
pub(super) fn unpin_link(pin: &Path) -> io::Result<()> {
    let _ = link::detach_pinned(pin);
    fs::remove_file(pin)
}
