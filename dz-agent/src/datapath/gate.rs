//! Attaching the gate: TC egress, whatever the ingress mode is.
//!
//! Of the programs at egress ours runs last, so that it sees what really leaves: TCX appends, and
//! the filter below Linux 6.6 has a high priority number.

use std::fs;

use aya::programs::links::FdLink;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use dz_common::ingress::Link;

use super::attach::{Hold, LinkFailure, pin_link, pinned};
use super::causes::chain;
use super::clsact;
use super::load::{Datapath, load_classifier};
use super::names::gate_name;
use super::pins::Pin;

impl Datapath {
    /// Attaches the gate to an interface, or puts our program into the pinned link of an earlier
    /// agent: at no moment is there none.
    pub(super) fn attach_gate(&mut self, interface: &str, link: Link) -> Result<Hold, String> {
        let pin = Pin::Gate(interface.to_owned()).path(&self.pin_dir);
        let has_tcx = self.has_tcx;
        let program =
            load_classifier(&mut self.ebpf, gate_name(link)).map_err(|error| error.to_string())?;
        if !has_tcx {
            let hook = TcAttachType::Egress;
            clsact::attach(program, interface, hook).map_err(|error| chain(&error))?;
            return Ok(Hold::Filter(interface.to_owned(), hook));
        }
        if let Some(old) = pinned(&pin)? {
            match swap(program, old) {
                Ok(()) => return Ok(Hold::Pin(pin)),
                // A pinned link outlives its device: the swap fails, and a new link is made.
                Err(_) => fs::remove_file(&pin).map_err(|error| error.to_string())?,
            }
        }
        let fd = create(program, interface).map_err(|error| error.0)?;
        pin_link(fd, pin)
    }
}

fn swap(program: &mut SchedClassifier, old: FdLink) -> Result<(), LinkFailure> {
    let id = program.attach_to_link(SchedClassifierLink::try_from(old)?)?;
    drop(FdLink::try_from(program.take_link(id)?));
    Ok(())
}

fn create(program: &mut SchedClassifier, interface: &str) -> Result<FdLink, LinkFailure> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, TcAttachType::Egress, options)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}
