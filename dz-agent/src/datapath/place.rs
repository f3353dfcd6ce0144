//! Finds out whether a program is at its hook, and puts right what is not so: what others do to an interface, to the
//! pins and to our links is found by asking the kernel, not remembered.

use aya::programs::ProgramError;

use super::attach::Attachment;
use super::held::{Device, Held, Mended, Place};
use super::hook::Hook;
use super::links::{LinkFailure, Links};
use super::object::{Loaded, Object};
use super::raw::query;
use super::release::ProgramHolder;

impl Device<'_> {
    /// Reads the kernel ids of the programs at a hook, in the order in which they run.
    fn chain(&self, held: &Held) -> Result<Vec<u32>, LinkFailure> {
        let [ingress, egress] = self.filters;
        match (&held.holder, held.hook) {
            (Some(ProgramHolder::Filter(..)), Hook::Ingress(_)) => Ok(ingress.clone()),
            (Some(ProgramHolder::Filter(..)), Hook::Egress) => Ok(egress.clone()),
            (_, hook) if hook.is_xdp() => Ok(self.interface.xdp.into_iter().collect()),
            (_, hook) => Ok(query::tcx(self.interface.ifindex, hook)?),
        }
    }
}

impl Attachment {
    /// Looks where the programs of the interface are, and puts right what is not as it should be. [`Self::places`] says what
    /// came of it.
    pub(super) fn keep(
        &mut self,
        object: &mut Object,
        links: &Links,
        device: &Device<'_>,
    ) -> Vec<Mended> {
        let mut mended = Vec::new();
        for held in self.held_mut() {
            let name = held.hook.label();
            let mut note = |what| mended.push(Mended { hook: name, what });
            let kept = object
                .program(held.program)
                .map_err(|failure| LinkFailure::new(failure.to_string()))
                .and_then(|program| keep(program, links, held, device, &mut note));
            held.place = kept.unwrap_or_else(|failure| Place::Missing(failure.to_string()));
        }
        mended
    }
}

fn keep(
    mut program: Loaded<'_>,
    links: &Links,
    held: &mut Held,
    device: &Device<'_>,
    mended: &mut dyn FnMut(&'static str),
) -> Result<Place, LinkFailure> {
    let ours = id(&program)?;
    let place = |chain: &[u32]| chain.iter().position(|id| *id == ours);
    match place(&device.chain(held)?) {
        Some(0) => {}
        Some(before) => {
            if held.moved || held.hook.is_xdp() || !links.has_tcx() {
                keep_pin(held, mended)?;
                return Ok(Place::Behind(before));
            }
            // Once for each start: who moves his in front of ours again means it.
            held.moved = true;
            links.put_anew(&mut program, held, device.interface)?;
            mended("moved before the programs of others");
        }
        None => {
            links.put_anew(&mut program, held, device.interface)?;
            mended("attached again: it had been taken off");
            if !links.has_tcx() || held.hook.is_xdp() {
                // Shown by the next reading of the interface, which this one precedes.
                return Ok(Place::First);
            }
        }
    }
    keep_pin(held, mended)?;
    match place(&device.chain(held)?) {
        Some(0) => Ok(Place::First),
        Some(before) => Ok(Place::Behind(before)),
        None => Err(LinkFailure::new(
            "it was attached, and is not there".to_owned(),
        )),
    }
}

fn keep_pin(held: &Held, mended: &mut dyn FnMut(&'static str)) -> Result<(), LinkFailure> {
    if let Some(ProgramHolder::Link(link)) = &held.holder
        && link.keep_pin()?
    {
        mended("pinned again: its pin had been removed");
    }
    Ok(())
}

/// Returns the kernel id of a program.
fn id(program: &Loaded<'_>) -> Result<u32, ProgramError> {
    let info = match program {
        Loaded::Tc(program) => program.info()?,
        Loaded::Xdp(program) => program.info()?,
    };
    Ok(info.id())
}
