//! Finds the links of the old kernel part, and swaps new programs into them: pinned links, and below
//! Linux 6.6 TC's filters, which belong to the device and are found there.

use std::path::Path;

use aya::programs::loaded_programs;

use super::staging::{MOVE, NEW, SWAP, map_ids};
use crate::datapath::filters::{self, Filter};
use crate::datapath::kernel::kernel_at_least;
use crate::datapath::links::{LinkFailure, swap_filter, swap_pinned};
use crate::datapath::object::Object;
use crate::datapath::pins::Pin;
use crate::datapath::raw::link::pinned_facts;

/// A link or filter of the old kernel part, whose device is still there.
pub(super) struct OldLink {
    kind: Kind,
    pub(super) ifindex: u32,
    /// Name of the program in it.
    program: String,
    /// Kernel ids of the maps that the program uses.
    maps: Vec<u32>,
}

/// Tells links and filters apart.
enum Kind {
    Pin(Pin),
    Filter(Filter),
}

impl OldLink {
    pub(super) fn uses(&self, maps: &[u32]) -> bool {
        self.maps.iter().any(|map| maps.contains(map))
    }

    /// Has the kernel load the program that is to replace the old one.
    pub(super) fn make_ready(&self, object: &mut Object) -> Result<(), String> {
        let ready = object.program(&self.program);
        ready.map(|_| ()).map_err(|failure| failure.to_string())
    }

    /// Replaces the old program.
    pub(super) fn swap(&self, object: &mut Object, pin_dir: &Path) -> Result<(), String> {
        let program = object.program(&self.program).map_err(LinkFailure::from);
        let swapped = program.and_then(|program| match &self.kind {
            Kind::Pin(pin) => swap_pinned(program, &pin.path(pin_dir)),
            Kind::Filter(filter) => swap_filter(program, filter),
        });
        swapped.map_err(|error| {
            let (program, ifindex) = (&self.program, self.ifindex);
            format!("{program} of interface {ifindex}: {error}")
        })
    }

    /// Says whether its program is the ingress program, and not the gate.
    pub(super) const fn is_ingress(&self) -> bool {
        match &self.kind {
            Kind::Pin(pin) => matches!(pin, Pin::Link { .. }),
            Kind::Filter(filter) => !filter.egress,
        }
    }
}

/// Finds the links and filters that still hold a program on a device. A pinned link outlives its device;
/// one that has is left out here, and replaced when its interface is attached to. A filter whose program
/// uses none of our maps is another agent's.
pub(super) fn old_links(pin_dir: &Path) -> Result<Vec<OldLink>, String> {
    let mut links = Vec::new();
    for pin in Pin::list(pin_dir).map_err(|error| error.to_string())? {
        if matches!(pin, Pin::Map(_)) {
            continue;
        }
        let path = pin.path(pin_dir);
        let link = pinned_facts(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if link.ifindex != 0 {
            links.push(of(Kind::Pin(pin), link.ifindex, link.program)?);
        }
    }
    if !kernel_at_least(6, 6) {
        let mut ours = Vec::new();
        for folder in [
            pin_dir.to_owned(),
            pin_dir.join(NEW),
            pin_dir.join(SWAP),
            pin_dir.join(MOVE),
        ] {
            ours.extend(map_ids(&folder).map_err(|failure| failure.to_string())?);
        }
        for filter in filters::list_at_once()? {
            let (ifindex, id) = (filter.ifindex, filter.program);
            let found = of(Kind::Filter(filter), ifindex, id)?;
            if found.uses(&ours) {
                links.push(found);
            }
        }
    }
    Ok(links)
}

fn of(kind: Kind, ifindex: u32, id: u32) -> Result<OldLink, String> {
    let mut programs = loaded_programs().filter_map(Result::ok);
    let program = programs.find(|program| program.id() == id);
    let program = program.ok_or_else(|| format!("no program {id} any more"))?;
    let maps = program.map_ids();
    let maps = maps.map_err(|error| format!("maps of program {id}: {error}"))?;
    Ok(OldLink {
        kind,
        ifindex,
        program: program.name_as_str().unwrap_or_default().to_owned(),
        maps: maps.unwrap_or_default(),
    })
}
