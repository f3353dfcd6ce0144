//! Attaching to an interface, through pinned links that outlive the agent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp};
use dz_common::ingress::Link;
use tracing::info;

use super::causes::chain;
use super::choice::Choice;
use super::clsact;
use super::load::{Datapath, load_classifier, load_xdp};
use super::mode::AttachMode;
use super::names::{gate_name, ingress_name};
use super::pins::Pin;
use super::release::unpin_link;
use crate::error::{ExitCode, FailWith, Failure};

/// What went wrong with a link, in words.
pub(super) struct LinkFailure(pub(super) String);

impl<E: std::error::Error> From<E> for LinkFailure {
    fn from(error: E) -> Self {
        Self(chain(&error))
    }
}

/// Programs on an interface. Dropping it leaves them there.
#[derive(Debug)]
pub struct Attachment {
    /// How.
    pub mode: AttachMode,
    /// Why so, for people.
    pub why: String,
    ingress: Hold,
    gate: Hold,
}

/// What holds the programs there.
#[derive(Debug)]
pub(super) enum Hold {
    /// A pinned link.
    Pin(PathBuf),
    /// A filter of the interface.
    Filter(String, TcAttachType),
}

impl Hold {
    /// Lets go. That it is gone already is no error.
    fn release(self) -> io::Result<()> {
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

impl Attachment {
    /// By what TC runs the programs: `tcx`, or `clsact` below Linux 6.6. The gate is always TC's.
    #[must_use]
    pub const fn tc(&self) -> &'static str {
        match self.gate {
            Hold::Pin(_) => "tcx",
            Hold::Filter(..) => "clsact",
        }
    }

    /// Takes the programs off the interface.
    ///
    /// # Errors
    /// If the pin cannot be removed.
    pub fn detach(self) -> io::Result<()> {
        // The gate last: what it keeps from a peer must not slip through before its route is gone.
        self.ingress.release().and(self.gate.release())
    }
}

impl Datapath {
    /// Attaches to an interface, or takes over the pinned link of an earlier agent: the program is
    /// swapped without a gap.
    ///
    /// Where the earlier agent had chosen another mode, there is no gap between TC and XDP either: its
    /// program goes when ours is there. No packet of a session is dealt with twice meanwhile, for XDP
    /// has it first, and passes none of them on to TC. One XDP mode takes the place of the other after
    /// a gap of some milliseconds, for a device has room for one.
    ///
    /// # Errors
    /// [`ExitCode::Interface`] if the device cannot carry any of the modes chosen.
    pub fn attach(
        &mut self,
        interface: &str,
        link: Link,
        choice: &Choice,
    ) -> Result<Attachment, Failure> {
        load_classifier(&mut self.ebpf, gate_name(link)).map(|_| ())?;
        let mut why = choice.why.clone();
        let mut refusal = None;
        for &mode in choice.modes {
            // Apart from attaching: a kernel that refuses the program is not the interface's fault.
            match mode {
                AttachMode::Tc => {
                    load_classifier(&mut self.ebpf, ingress_name(link)).map(|_| ())?
                }
                AttachMode::Xdp | AttachMode::XdpGeneric => load_xdp(&mut self.ebpf).map(|_| ())?,
            }
            self.drop_modes(interface, |other| !mode.goes_with(other) && other != mode)?;
            match self.attach_as(interface, link, mode) {
                Ok(ingress) => {
                    let gate = self
                        .drop_modes(interface, |other| other != mode)
                        .and_then(|()| {
                            self.attach_gate(interface, link)
                                .map_err(no_gate(interface))
                        });
                    let gate = match gate {
                        Ok(gate) => gate,
                        Err(failure) => {
                            // This failure is the one to tell.
                            let _ = ingress.release();
                            return Err(failure);
                        }
                    };
                    info!(interface, %mode, why, "attached");
                    return Ok(Attachment {
                        mode,
                        why,
                        ingress,
                        gate,
                    });
                }
                Err(error) => {
                    why = format!("{}, but cannot attach as {mode}: {error}", choice.why);
                    refusal = Some((mode, error));
                }
            }
        }
        let (mode, error) = refusal.unwrap_or((AttachMode::Tc, "no attach mode".to_owned()));
        Err(Failure::new(
            ExitCode::Interface,
            format!("{interface}: cannot attach as {mode}: {error}: choose another --attach"),
        ))
    }

    fn attach_as(&mut self, interface: &str, link: Link, mode: AttachMode) -> Result<Hold, String> {
        if mode == AttachMode::Tc && !self.has_tcx {
            let program = self.ingress(link).map_err(|error| error.0)?;
            let hook = TcAttachType::Ingress;
            clsact::attach(program, interface, hook).map_err(|error| chain(&error))?;
            return Ok(Hold::Filter(interface.to_owned(), hook));
        }
        let pin = self.link_pin(interface, mode);
        if let Some(old) = pinned(&pin)? {
            match self.swap(link, mode, old) {
                Ok(()) => return Ok(Hold::Pin(pin)),
                // A pinned link outlives its device: the swap fails, and a new link is made.
                Err(_) => fs::remove_file(&pin).map_err(|error| error.to_string())?,
            }
        }
        let fd = self
            .create_link(interface, link, mode)
            .map_err(|error| error.0)?;
        pin_link(fd, pin)
    }

    /// Puts our program into an existing link.
    fn swap(&mut self, link: Link, mode: AttachMode, old: FdLink) -> Result<(), LinkFailure> {
        match mode {
            AttachMode::Tc => {
                let program = self.ingress(link)?;
                let id = program.attach_to_link(SchedClassifierLink::try_from(old)?)?;
                drop(FdLink::try_from(program.take_link(id)?));
            }
            AttachMode::Xdp | AttachMode::XdpGeneric => {
                let program = self.xdp()?;
                let id = program.attach_to_link(XdpLink::try_from(old)?)?;
                drop(FdLink::try_from(program.take_link(id)?));
            }
        }
        Ok(())
    }

    fn create_link(
        &mut self,
        interface: &str,
        link: Link,
        mode: AttachMode,
    ) -> Result<FdLink, LinkFailure> {
        let xdp_mode = match mode {
            AttachMode::Tc => {
                let program = self.ingress(link)?;
                let options = TcAttachOptions::TcxOrder(LinkOrder::default());
                let id = program.attach_with_options(interface, TcAttachType::Ingress, options)?;
                return Ok(FdLink::try_from(program.take_link(id)?)?);
            }
            AttachMode::Xdp => XdpMode::Driver,
            AttachMode::XdpGeneric => XdpMode::Skb,
        };
        let program = self.xdp()?;
        let id = program.attach(interface, xdp_mode)?;
        Ok(FdLink::try_from(program.take_link(id)?)?)
    }

    /// Takes away what an earlier agent has attached in these modes.
    fn drop_modes(
        &self,
        interface: &str,
        these: impl Fn(AttachMode) -> bool,
    ) -> Result<(), Failure> {
        for mode in AttachMode::ALL.into_iter().filter(|mode| these(*mode)) {
            if mode == AttachMode::Tc && !self.has_tcx {
                clsact::detach(interface, TcAttachType::Ingress);
            }
            let pin = self.link_pin(interface, mode);
            if pin.exists() {
                unpin_link(&pin)
                    .fail_with(ExitCode::Failure, || format!("removing {}", pin.display()))?;
            }
        }
        Ok(())
    }

    fn link_pin(&self, interface: &str, mode: AttachMode) -> PathBuf {
        let interface = interface.to_owned();
        Pin::Link { interface, mode }.path(&self.pin_dir)
    }

    fn ingress(&mut self, link: Link) -> Result<&mut SchedClassifier, LinkFailure> {
        Ok(load_classifier(&mut self.ebpf, ingress_name(link))?)
    }

    fn xdp(&mut self) -> Result<&mut Xdp, LinkFailure> {
        Ok(load_xdp(&mut self.ebpf)?)
    }
}

fn no_gate(interface: &str) -> impl FnOnce(String) -> Failure {
    let context = format!("{interface}: cannot attach the gate");
    move |error| Failure::new(ExitCode::Interface, error).context(context)
}

/// The pinned link of an earlier agent, if there is one.
pub(super) fn pinned(pin: &Path) -> Result<Option<FdLink>, String> {
    match PinnedLink::from_pin(pin) {
        Ok(old) => Ok(Some(FdLink::from(old))),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(chain(&error)),
    }
}

/// Pins a link, so that it outlives us.
pub(super) fn pin_link(link: FdLink, pin: PathBuf) -> Result<Hold, String> {
    link.pin(&pin)
        .map_err(|error| format!("pinning {}: {}", pin.display(), chain(&error)))?;
    Ok(Hold::Pin(pin))
}
