//! Puts programs on interfaces by pinned links, which outlive the agent, or by filters below Linux 6.6,
//! where TC has no links.
//!
//! Ours runs first, so that no other program of TCX ends the chain before it. Below Linux 6.6 it has a place among the filters
//! by its priority number.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, SchedClassifier};

use super::causes::chain;
use super::clsact;
use super::filters::{self, Filter};
use super::held::Held;
use super::hook::{AttachMode, Hook};
use super::kernel::kernel_at_least;
use super::object::Loaded;
use super::pins::Pin;
use super::raw::link;
use super::release::{HeldLink, ProgramHolder, unpin_link};
use super::whose::is_on;
use crate::error::{ExitCode, FailWith, Failure};
use crate::net::links::Interface;

/// The failure of a link or filter, in words.
pub(super) struct LinkFailure(String);

impl LinkFailure {
    pub(super) const fn new(text: String) -> Self {
        Self(text)
    }
}

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

    /// Says whether TC has links.
    pub(super) const fn has_tcx(&self) -> bool {
        self.has_tcx
    }

    /// Puts a program on a hook of an interface, in the place of an earlier agent's if there is one: at no
    /// moment is there none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn put(
        &self,
        program: &mut Loaded<'_>,
        interface: &Interface,
        hook: Hook,
    ) -> Result<ProgramHolder, LinkFailure> {
        if let Loaded::Tc(program) = program
            && !self.has_tcx
        {
            return put_filter(program, interface, hook);
        }
        let pin = Pin::at(hook, &interface.name).path(&self.pin_dir);
        if let Some(old) = pinned(&pin)? {
            let facts = link::pinned_facts(&pin)?;
            if is_on(&facts, interface, hook) {
                swap(program, old)?;
                return Ok(ProgramHolder::Link(HeldLink::open(pin)?));
            }
            // Its interface is gone, or has another name by now.
            drop(old);
            unpin_link(&pin)?;
        }
        self.make(program, interface, hook)
    }

    /// Puts a program on a hook first, and takes what held it there off.
    ///
    /// # Errors
    /// The kernel refuses; then nothing holds it.
    pub(super) fn put_anew(
        &self,
        program: &mut Loaded<'_>,
        held: &mut Held,
        interface: &Interface,
    ) -> Result<(), LinkFailure> {
        if let Loaded::Tc(program) = program
            && !self.has_tcx
        {
            held.holder = Some(put_filter(program, interface, held.hook)?);
            return Ok(());
        }
        // A program is at a hook once, and one XDP program fits an interface: so there is none for some microseconds.
        held.holder.take().map_or(Ok(()), ProgramHolder::release)?;
        held.holder = Some(self.make(program, interface, held.hook)?);
        Ok(())
    }

    fn make(
        &self,
        program: &mut Loaded<'_>,
        interface: &Interface,
        hook: Hook,
    ) -> Result<ProgramHolder, LinkFailure> {
        let link = create(program, &interface.name, hook)?;
        self.pin(link, interface, hook)
    }

    fn pin(
        &self,
        link: FdLink,
        interface: &Interface,
        hook: Hook,
    ) -> Result<ProgramHolder, LinkFailure> {
        let pin = Pin::at(hook, &interface.name).path(&self.pin_dir);
        link.pin(&pin).map_err(|error| {
            LinkFailure(format!("pinning {}: {}", pin.display(), chain(&error)))
        })?;
        Ok(ProgramHolder::Link(HeldLink::open(pin)?))
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

/// Puts a program into our place among the filters.
fn put_filter(
    program: &mut SchedClassifier,
    interface: &Interface,
    hook: Hook,
) -> Result<ProgramHolder, LinkFailure> {
    if let Some(other) =
        filters::other_at_our_place(interface.ifindex, hook == Hook::Egress).map_err(LinkFailure)?
    {
        return Err(LinkFailure(format!(
            "the filter at our place (priority {}) is somebody else's, {other}: remove it",
            clsact::PRIORITY
        )));
    }
    clsact::attach(program, &interface.name, hook.tc())?;
    Ok(ProgramHolder::Filter(interface.name.clone(), hook.tc()))
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
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(interface, hook.tc(), options)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        }
        Loaded::Xdp(program) => {
            let id = program.attach(interface, hook.xdp())?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        }
    }
}
