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
use tracing::warn;

use super::causes::chain;
use super::clsact;
use super::features::has_tcx;
use super::filters::{self, AtOurPlace, Filter};
use super::held::Held;
use super::hook::{AttachMode, Hook};
use super::object::Loaded;
use super::pins::Pin;
use super::raw::link;
use super::release::{HeldLink, ProgramHolder, unpin_link};
use super::whose::is_on;
use crate::error::Failure;
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
    ///
    /// # Errors
    /// [`ExitCode::Kernel`](crate::error::ExitCode::Kernel): the kernel does not say whether TC has links.
    pub(super) fn new(pin_dir: &Path) -> Result<Self, Failure> {
        Ok(Self {
            pin_dir: pin_dir.to_owned(),
            has_tcx: has_tcx()?,
        })
    }

    /// Says whether TC has links.
    pub(super) const fn has_tcx(&self) -> bool {
        self.has_tcx
    }

    /// Makes ready to put a program on a hook of an interface. What an earlier agent has there goes on meanwhile.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn ready(
        &self,
        program: &mut Loaded<'_>,
        interface: &Interface,
        hook: Hook,
    ) -> Result<Ready, LinkFailure> {
        if let Loaded::Tc(program) = program
            && !self.has_tcx
        {
            return ready_filter(program, interface, hook);
        }
        if let Some(old) = self.link_on(interface, hook)? {
            return Ok(Ready::Swap(old));
        }
        for mode in AttachMode::ALL {
            let other = Hook::Ingress(mode);
            if hook.is_xdp() && other.is_xdp() && self.link_on(interface, other)?.is_some() {
                return Ok(Ready::AfterXdp(mode));
            }
        }
        Ok(Ready::New(create(program, &interface.name, hook)?))
    }

    /// Takes the first half of putting a program on its hook: the one that can be taken back.
    ///
    /// # Errors
    /// The kernel refuses; then the hook is as it was.
    pub(super) fn pin_new(
        &self,
        ready: Ready,
        interface: &Interface,
        hook: Hook,
    ) -> Result<Ready, LinkFailure> {
        Ok(match ready {
            Ready::New(link) => {
                let holder = self.pin(link, interface, hook)?;
                Ready::Put(Put::new(holder))
            }
            ready => ready,
        })
    }

    /// Takes the second half: puts the program in the place of an earlier agent's, at no moment of which there is
    /// none, but for the change from one XDP mode to the other.
    ///
    /// # Errors
    /// The kernel refuses; then an earlier agent's link is as it was, or has our program.
    pub(super) fn put(
        &self,
        ready: Ready,
        program: &mut Loaded<'_>,
        interface: &Interface,
        hook: Hook,
    ) -> Result<Put, LinkFailure> {
        let pin = Pin::at(hook, &interface.name).path(&self.pin_dir);
        match ready {
            Ready::Put(put) => Ok(put),
            Ready::New(link) => Ok(Put::new(self.pin(link, interface, hook)?)),
            Ready::Swap(old) => {
                swap(program, old)?;
                Ok(Put::taken_over(ProgramHolder::Link(HeldLink::open(pin)?)))
            }
            Ready::Filter => match program {
                Loaded::Tc(program) => Ok(Put::taken_over(put_filter(program, interface, hook)?)),
                Loaded::Xdp(_) => Err(LinkFailure("XDP has no filters".to_owned())),
            },
            Ready::AfterXdp(mode) => {
                let old = Hook::Ingress(mode);
                unpin_link(&Pin::at(old, &interface.name).path(&self.pin_dir))?;
                let made = self.make(program, interface, hook);
                // This failure is the one to tell.
                made.map(Put::taken_over).inspect_err(|_| {
                    let _ = self.make(program, interface, old);
                })
            }
        }
    }

    /// Opens the link that an earlier agent has pinned for a hook of an interface, if it still is there.
    fn link_on(&self, interface: &Interface, hook: Hook) -> Result<Option<FdLink>, LinkFailure> {
        let pin = Pin::at(hook, &interface.name).path(&self.pin_dir);
        let Some(link) = pinned(&pin)? else {
            return Ok(None);
        };
        // Its interface may be gone, or have another name by now.
        let is_on = is_on(&link::pinned_facts(&pin)?, interface, hook)?;
        Ok(is_on.then_some(link))
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
        let stale = HeldLink::find(&pin)?;
        if let Some(stale) = &stale {
            stale.unpin()?;
        }
        let pinned = link
            .pin(&pin)
            .map(drop)
            .map_err(|error| LinkFailure(format!("pinning {}: {}", pin.display(), chain(&error))));
        match (pinned, stale) {
            (Ok(()), None) => {}
            (Ok(()), Some(stale)) => stale.detach(),
            (Err(failure), stale) => {
                // This failure is the one to tell.
                let _ = stale.map(|stale| stale.keep_pin());
                return Err(failure);
            }
        }
        Ok(ProgramHolder::Link(HeldLink::open(pin)?))
    }

    /// Takes the program of an earlier agent off an interface's ingress in this mode, if there is one.
    ///
    /// # Errors
    /// It cannot be taken off, or its pin not removed.
    pub(super) fn clear(&self, interface: &str, mode: AttachMode) -> Result<(), LinkFailure> {
        let hook = Hook::Ingress(mode);
        if mode == AttachMode::Tc && !self.has_tcx {
            clsact::detach(interface, hook.tc());
        }
        let pin = Pin::at(hook, interface).path(&self.pin_dir);
        match unpin_link(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LinkFailure(format!("removing {}: {error}", pin.display())))
            }
            _ => Ok(()),
        }
    }
}

/// A program on its way to a hook. Dropped, the value leaves the hook as it was.
pub(super) enum Ready {
    /// An earlier agent's link, which is to be given the program.
    Swap(FdLink),
    /// A link of ours without a pin: it ends with this value.
    New(FdLink),
    /// Our place among the filters has an earlier agent's program.
    Filter,
    /// The interface has ours in another XDP mode, and no room for two.
    AfterXdp(AttachMode),
    /// It is there.
    Put(Put),
}

/// A program that a start has put on a hook. Dropped before it is [kept](Self::keep), it is taken off again, unless
/// there was one of an earlier agent's.
pub(super) struct Put {
    holder: Option<ProgramHolder>,
    is_new: bool,
}

impl Put {
    const fn new(holder: ProgramHolder) -> Self {
        Self {
            holder: Some(holder),
            is_new: true,
        }
    }

    const fn taken_over(holder: ProgramHolder) -> Self {
        Self {
            holder: Some(holder),
            is_new: false,
        }
    }

    /// Leaves the program there.
    pub(super) fn keep(mut self) -> Option<ProgramHolder> {
        self.holder.take()
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.take().filter(|_| self.is_new)
            && let Err(error) = holder.release()
        {
            warn!(%error, "a program is not taken off again: `dz-agent purge` does it");
        }
    }
}

/// Makes ready to put a program into our place among the filters. Where there is none, it is put there.
fn ready_filter(
    program: &mut SchedClassifier,
    interface: &Interface,
    hook: Hook,
) -> Result<Ready, LinkFailure> {
    let egress = hook == Hook::Egress;
    let found = filters::at_our_place(interface.ifindex, egress).map_err(LinkFailure)?;
    if matches!(found, AtOurPlace::Ours) {
        return Ok(Ready::Filter);
    }
    let holder = put_filter(program, interface, hook)?;
    Ok(Ready::Put(Put::new(holder)))
}

/// Puts a program into our place among the filters.
fn put_filter(
    program: &mut SchedClassifier,
    interface: &Interface,
    hook: Hook,
) -> Result<ProgramHolder, LinkFailure> {
    let egress = hook == Hook::Egress;
    let found = filters::at_our_place(interface.ifindex, egress).map_err(LinkFailure)?;
    if let AtOurPlace::Others(other) = found {
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
