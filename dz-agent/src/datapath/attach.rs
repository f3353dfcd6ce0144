//! Attaches the programs of an interface: one at its ingress, and the gate at its egress.

use std::io;

use dz_common::ingress::Link;
use tracing::info;

use super::choice::Choice;
use super::held::{Held, Place};
use super::hook::{AttachMode, Hook};
use super::links::Links;
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

/// Attaches to an interface, or takes over the pinned links of an earlier agent: the programs are
/// swapped without a gap.
///
/// Where the earlier agent had chosen another mode, there is no gap between TC and XDP either: its
/// program goes when ours is there. No packet of a session is dealt with twice meanwhile, for XDP
/// has it first, and passes none of them on to TC. One XDP mode takes the place of the other after
/// a gap of some milliseconds, for a device has room for one.
///
/// # Errors
/// [`ExitCode::Interface`] if the device cannot carry any of the modes chosen. The caller names the
/// interface.
pub(super) fn attach(
    object: &mut Object,
    links: &Links,
    interface: &Interface,
    link: Link,
    choice: &Choice,
) -> Result<Attachment, Failure> {
    let name = interface.name.as_str();
    let gate_program = Hook::Egress.program(link);
    object.program(gate_program)?;
    let mut why = choice.why.clone();
    let mut refusal = None;
    for &mode in choice.modes {
        let hook = Hook::Ingress(mode);
        // Apart from attaching: a kernel that refuses the program is not the interface's fault.
        let mut program = object.program(hook.program(link))?;
        clear(links, name, |other| !mode.goes_with(other) && other != mode)?;
        match links.put(&mut program, interface, hook) {
            Ok(ingress) => {
                let gate = clear(links, name, |other| other != mode)
                    .and_then(|()| attach_gate(object, links, interface, gate_program));
                let gate = match gate {
                    Ok(gate) => gate,
                    Err(failure) => {
                        // This failure is the one to tell.
                        let _ = ingress.release();
                        return Err(failure);
                    }
                };
                info!(interface = name, %mode, why, "attached");
                return Ok(Attachment {
                    mode,
                    why,
                    ingress: Held::new(hook, hook.program(link), ingress),
                    gate: Held::new(Hook::Egress, gate_program, gate),
                });
            }
            Err(error) => {
                why = format!("{}, but cannot attach as {mode}: {error}", choice.why);
                refusal = Some((mode, error.to_string()));
            }
        }
    }
    let (mode, error) = refusal.unwrap_or((AttachMode::Tc, "no attach mode".to_owned()));
    Err(Failure::new(
        ExitCode::Interface,
        format!("cannot attach as {mode}: {error}: choose another --attach"),
    ))
}

/// Attaches the gate: TC egress, whatever the ingress mode is.
fn attach_gate(
    object: &mut Object,
    links: &Links,
    interface: &Interface,
    gate: &str,
) -> Result<ProgramHolder, Failure> {
    let failed =
        |error: String| Failure::new(ExitCode::Interface, error).context("cannot attach the gate");
    let program = object.program(gate);
    let mut program = program.map_err(|failure| failed(failure.to_string()))?;
    let held = links.put(&mut program, interface, Hook::Egress);
    held.map_err(|error| failed(error.to_string()))
}

/// Takes the programs of an earlier agent off the ingress in these modes.
fn clear(
    links: &Links,
    interface: &str,
    these: impl Fn(AttachMode) -> bool,
) -> Result<(), Failure> {
    let mut modes = AttachMode::ALL.into_iter().filter(|mode| these(*mode));
    modes.try_for_each(|mode| links.clear(interface, mode))
}
