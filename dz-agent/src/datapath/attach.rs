//! Attaches the programs of an interface: one at its ingress, and the gate at its egress.
//!
//! A start attaches to all interfaces or to none. So it is done in steps: everything that the kernel can refuse, and
//! that can be taken back, comes first, for all interfaces; then the programs of an earlier agent are replaced.

use std::io;

use dz_common::ingress::Link;
use tracing::info;

use super::choice::Choice;
use super::held::{Held, Place};
use super::hook::{AttachMode, Hook};
use super::links::{self, LinkFailure, Links};
use super::object::Object;
use super::release::ProgramHolder;
use crate::error::{ExitCode, Failure};
use crate::net::links::Interface;

/// The programs on an interface. Dropping the value leaves them there.
#[derive(Debug)]
pub struct Attachment {
    mode: AttachMode,
    why: String,
    ingress: Held,
    gate: Held,
}

impl Attachment {
    /// Returns how the program at ingress is attached.
    pub const fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Returns why it is attached so, for people.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Returns by what TC runs the programs: `tcx`, or `clsact` below Linux 6.6. The gate is always TC's.
    #[must_use]
    pub const fn tc(&self) -> &'static str {
        match self.gate.holder {
            Some(ProgramHolder::Filter(..)) => "clsact",
            _ => "tcx",
        }
    }

    /// Returns where the programs were when they were last looked for, each with the name of its hook.
    pub fn places(&self) -> [(&'static str, &Place); 2] {
        [&self.ingress, &self.gate].map(|held| (held.hook.label(), &held.place))
    }

    pub(super) fn held_mut(&mut self) -> [&mut Held; 2] {
        [&mut self.ingress, &mut self.gate]
    }

    /// Takes the programs off the interface.
    ///
    /// # Errors
    /// If the pin cannot be removed.
    pub fn detach(self) -> io::Result<()> {
        // The gate last: packets that it keeps from a peer must not slip through before the route is gone.
        self.ingress.release().and(self.gate.release())
    }
}

/// The programs of an interface on their way there. Dropped, the value leaves the interface as it was.
pub struct Ready {
    interface: Interface,
    link: Link,
    mode: AttachMode,
    why: String,
    /// What is left to try should this mode not be had after all.
    rest: Choice,
    ingress: links::Ready,
    gate: links::Ready,
}

/// Makes ready to attach to an interface. What an earlier agent has there goes on meanwhile.
///
/// # Errors
/// [`ExitCode::Interface`] if the device cannot carry any of the modes chosen. The caller names the
/// interface.
pub(super) fn ready(
    object: &mut Object,
    links: &Links,
    interface: &Interface,
    link: Link,
    choice: &Choice,
) -> Result<Ready, Failure> {
    // Apart from attaching: a kernel that refuses a program is not the interface's fault.
    object.program(Hook::Egress.program(link))?;
    let mut why = choice.why.clone();
    let mut refusal = None;
    for (tried, &mode) in choice.modes.iter().enumerate() {
        let hook = Hook::Ingress(mode);
        let mut program = object.program(hook.program(link))?;
        match links.ready(&mut program, interface, hook) {
            Ok(ingress) => {
                let mut gate = object.program(Hook::Egress.program(link))?;
                let gate = links.ready(&mut gate, interface, Hook::Egress);
                return Ok(Ready {
                    gate: gate.map_err(|error| gate_failed(&error))?,
                    interface: interface.clone(),
                    link,
                    mode,
                    why,
                    rest: Choice {
                        modes: &choice.modes[tried + 1..],
                        why: choice.why.clone(),
                    },
                    ingress,
                });
            }
            Err(error) => {
                why = cannot_attach(choice, mode, &error);
                refusal = Some((mode, error.to_string()));
            }
        }
    }
    let (mode, error) = refusal.unwrap_or((AttachMode::Tc, "no attach mode".to_owned()));
    Err(refused(mode, &error))
}

/// Attaches to interfaces that have been made ready, or takes over the pinned links of an earlier agent there: the
/// programs are swapped without a gap.
///
/// Where the earlier agent had chosen another mode, there is no gap between TC and XDP either: its
/// program goes when ours is there. No packet of a session is dealt with twice meanwhile, for XDP
/// has it first, and passes none of them on to TC. One XDP mode takes the place of the other after
/// a gap of some milliseconds, for a device has room for one.
///
/// # Errors
/// [`ExitCode::Interface`] if a device does not carry a program after all: nothing of this start is left anywhere
/// then, but in links of an earlier agent that have our program already.
pub(super) fn attach(
    object: &mut Object,
    links: &Links,
    all: Vec<Ready>,
) -> Result<Vec<Attachment>, Failure> {
    let all: Result<Vec<_>, _> = all.into_iter().map(|ready| ready.pinned(links)).collect();
    let all = all?.into_iter().map(|ready| ready.put(object, links));
    let all = all.collect::<Result<Vec<_>, _>>()?;
    for put in &all {
        clear_others(links, &put.interface, put.mode)?;
    }
    Ok(all.into_iter().map(AllPut::keep).collect())
}

impl Ready {
    /// Pins the new links.
    fn pinned(self, links: &Links) -> Result<Self, Failure> {
        let Self {
            interface,
            mode,
            ingress,
            gate,
            ..
        } = self;
        let ingress = links.pin_new(ingress, &interface, Hook::Ingress(mode));
        let ingress = ingress.map_err(|error| refused(mode, &error).context(named(&interface)))?;
        let gate = links.pin_new(gate, &interface, Hook::Egress);
        let gate = gate.map_err(|error| gate_failed(&error).context(named(&interface)))?;
        Ok(Self {
            interface,
            ingress,
            gate,
            ..self
        })
    }

    /// Puts the programs on the interface, in the next mode that is left should the kernel refuse this one.
    fn put(self, object: &mut Object, links: &Links) -> Result<AllPut, Failure> {
        let name = named(&self.interface);
        self.try_put(object, links)
            .map_err(|failure| failure.context(name))
    }

    fn try_put(self, object: &mut Object, links: &Links) -> Result<AllPut, Failure> {
        let (interface, link, mode) = (self.interface, self.link, self.mode);
        let hook = Hook::Ingress(mode);
        let mut program = object.program(hook.program(link))?;
        let ingress = match links.put(self.ingress, &mut program, &interface, hook) {
            Ok(ingress) => ingress,
            Err(error) if self.rest.modes.is_empty() => return Err(refused(mode, &error)),
            Err(error) => {
                let mut rest = self.rest;
                rest.why = cannot_attach(&rest, mode, &error);
                drop(self.gate);
                return ready(object, links, &interface, link, &rest)?.try_put(object, links);
            }
        };
        let mut gate = object.program(Hook::Egress.program(link))?;
        let gate = links.put(self.gate, &mut gate, &interface, Hook::Egress);
        Ok(AllPut {
            gate: gate.map_err(|error| gate_failed(&error))?,
            interface,
            link,
            mode,
            why: self.why,
            ingress,
        })
    }
}

/// The programs of an interface where they belong. Dropped before it is [kept](Self::keep), it takes the new ones off.
struct AllPut {
    interface: Interface,
    link: Link,
    mode: AttachMode,
    why: String,
    ingress: links::Put,
    gate: links::Put,
}

impl AllPut {
    fn keep(self) -> Attachment {
        let Self {
            link, mode, why, ..
        } = self;
        info!(interface = self.interface.name, %mode, why, "attached");
        let hook = Hook::Ingress(mode);
        Attachment {
            mode,
            why,
            ingress: Held::new(hook, hook.program(link), self.ingress.keep()),
            gate: Held::new(Hook::Egress, Hook::Egress.program(link), self.gate.keep()),
        }
    }
}

/// Takes the programs of an earlier agent off the ingress in other modes.
fn clear_others(links: &Links, interface: &Interface, mode: AttachMode) -> Result<(), Failure> {
    let mut others = AttachMode::ALL.into_iter().filter(|other| *other != mode);
    let cleared = others.try_for_each(|other| links.clear(&interface.name, other));
    cleared.map_err(|error| {
        Failure::new(ExitCode::Failure, error.to_string()).context(named(interface))
    })
}

fn named(interface: &Interface) -> String {
    format!("interface {}", interface.name)
}

fn cannot_attach(choice: &Choice, mode: AttachMode, error: &LinkFailure) -> String {
    format!("{}, but cannot attach as {mode}: {error}", choice.why)
}

fn refused(mode: AttachMode, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        ExitCode::Interface,
        format!("cannot attach as {mode}: {error}: choose another --attach"),
    )
}

fn gate_failed(error: &LinkFailure) -> Failure {
    Failure::new(ExitCode::Interface, error.to_string()).context("cannot attach the gate")
}
