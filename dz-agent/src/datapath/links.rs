//! Puts programs on interfaces by pinned links, which outlive the agent, or by filters below Linux 6.6,
//! where TC has no links.
//!
//! Of the programs at egress ours runs last, so that it sees what really leaves: TCX appends, and
//! the filter below Linux 6.6 has a high priority number.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::LinkOrder;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;

use super::causes::chain;
use super::clsact;
use super::filters::Filter;
use super::hook::{AttachMode, Hook};
use super::kernel::kernel_at_least;
use super::object::Loaded;
use super::pins::Pin;
use super::release::{ProgramHolder, unpin_link};
use crate::error::{ExitCode, FailWith, Failure};

/// The failure of a link or filter, in words.
pub(super) struct LinkFailure(String);

impl fmt::Display for LinkFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for LinkFailure {
    fn from(error: E) -> Self {
        Self(chain(&error))
    }
}

/// The links of one pin directory.
pub(super) struct Links {
    pin_dir: PathBuf,
    /// Whether TC has links: Linux 6.6 and newer.
    has_tcx: bool,
}

impl Links {
    /// Gives access to the links that are pinned in this directory.
    pub(super) fn new(pin_dir: &Path) -> Self {
        Self {
            pin_dir: pin_dir.to_owned(),
            has_tcx: kernel_at_least(6, 6),
        }
    }

    /// Puts a program on a hook of an interface, in the place of an earlier agent's if there is one: at no
    /// moment is there none.
    pub(super) fn put(
        &self,
        program: Loaded<'_>,
        interface: &str,
        hook: Hook,
    ) -> Result<ProgramHolder, LinkFailure> {
        let mut program = match program {
            Loaded::Tc(program) if !self.has_tcx => {
                clsact::attach(program, interface, hook.tc())?;
                return Ok(ProgramHolder::Filter(interface.to_owned(), hook.tc()));
            }
            program => program,
        };
        let pin = Pin::at(hook, interface).path(&self.pin_dir);
        if let Some(old) = pinned(&pin)? {
            match swap(&mut program, old) {
                Ok(()) => return Ok(ProgramHolder::Pin(pin)),
                // A pinned link outlives its device: the swap fails, and a new link is made.
                Err(_) => fs::remove_file(&pin)?,
            }
        }
        let link = create(&mut program, interface, hook)?;
        link.pin(&pin).map_err(|error| {
            LinkFailure(format!("pinning {}: {}", pin.display(), chain(&error)))
        })?;
        Ok(ProgramHolder::Pin(pin))
    }

    /// Takes the program of an earlier agent off an interface's ingress in this mode, if there is one.
    ///
    /// # Errors
    /// If the pin cannot be removed.
    pub(super) fn clear(&self, interface: &str, mode: AttachMode) -> Result<(), Failure> {
        let hook = Hook::Ingress(mode);
        if mode == AttachMode::Tc && !self.has_tcx {
            clsact::detach(interface, hook.tc());
        }
        let pin = Pin::at(hook, interface).path(&self.pin_dir);
        if pin.exists() {
            unpin_link(&pin)
                .fail_with(ExitCode::Failure, || format!("removing {}", pin.display()))?;
        }
        Ok(())
    }
}

/// Puts a program into a pinned link.
pub(super) fn swap_pinned(mut program: Loaded<'_>, pin: &Path) -> Result<(), LinkFailure> {
    swap(&mut program, FdLink::from(PinnedLink::from_pin(pin)?))
}

/// Puts a program into the place of a filter.
pub(super) fn swap_filter(program: Loaded<'_>, filter: &Filter) -> Result<(), LinkFailure> {
    match program {
        Loaded::Tc(program) => Ok(clsact::attach(program, &filter.interface, filter.hook())?),
        Loaded::Xdp(_) => Err(LinkFailure("XDP has no filters".to_owned())),
    }
}

/// Opens the pinned link of an earlier agent, if there is one.
fn pinned(pin: &Path) -> Result<Option<FdLink>, LinkFailure> {
    match PinnedLink::from_pin(pin) {
        Ok(old) => Ok(Some(FdLink::from(old))),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Puts a program into an existing link. A pin keeps the link; aya must not, or it went with the program.
fn swap(program: &mut Loaded<'_>, old: FdLink) -> Result<(), LinkFailure> {
    match program {
        Loaded::Tc(program) => {
            let id = program.attach_to_link(SchedClassifierLink::try_from(old)?)?;
            drop(FdLink::try_from(program.take_link(id)?));
        }
        Loaded::Xdp(program) => {
            let id = program.attach_to_link(XdpLink::try_from(old)?)?;
            drop(FdLink::try_from(program.take_link(id)?));
        }
    }
    Ok(())
}

/// Makes a link.
fn create(program: &mut Loaded<'_>, interface: &str, hook: Hook) -> Result<FdLink, LinkFailure> {
    match program {
        Loaded::Tc(program) => {
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            let id = program.attach_with_options(interface, hook.tc(), options)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        }
        Loaded::Xdp(program) => {
            let id = program.attach(interface, hook.xdp())?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        }
    }
}
