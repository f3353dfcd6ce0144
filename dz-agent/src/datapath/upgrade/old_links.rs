//! Finds the links of the old kernel part, and swaps new programs into them: pinned links, and below
//! Linux 6.6 TC's filters, which belong to the device and are found there.

use std::io;
use std::path::Path;

use aya::programs::loaded_programs;
use dz_common::map::{LocalKey, name};
use zerocopy::TryFromBytes;

use super::staging::{MOVE, NEW, SWAP, map_ids};
use crate::datapath::causes::os_error;
use crate::datapath::features::has_tcx;
use crate::datapath::filters::{self, Filter, at_once};
use crate::datapath::hook::{AttachMode, Hook};
use crate::datapath::links::{LinkFailure, swap_filter, swap_pinned};
use crate::datapath::made::is_there;
use crate::datapath::object::Object;
use crate::datapath::pins::Pin;
use crate::datapath::raw::link::pinned_facts;
use crate::datapath::raw::map::RawMap;
use crate::net::links;

/// A link or filter of the old kernel part, whose device is still there.
pub(super) struct OldLink {
    kind: Kind,
    pub(super) ifindex: u32,
    /// Name of the program in it.
    program: String,
    /// Kernel ids of the maps that the program uses; none where the kernel does not tell us.
    maps: Option<Vec<u32>>,
}

/// Tells links and filters apart.
enum Kind {
    Pin(Pin),
    Filter(Filter),
}

impl OldLink {
    /// Says whether its program uses one of these maps.
    pub(super) fn uses(&self, maps: &[u32]) -> Result<bool, String> {
        let used = self.maps.as_ref();
        let used = used.ok_or(
            "which maps its programs use is told to CAP_SYS_ADMIN alone: run `dz-agent prepare` as root first",
        )?;
        Ok(used.iter().any(|map| maps.contains(map)))
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
    if !has_tcx().map_err(|failure| failure.to_string())? {
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
            // Where that is not told, its name and its place have to do.
            if found.maps.is_none() || found.uses(&ours)? {
                links.push(found);
            }
        }
    }
    Ok(links)
}

/// Returns the names of the interfaces with a filter whose program has the maps that are pinned here. Where the kernel
/// does not tell which maps it has, our sessions' addresses there (`dz_locals`) do.
pub(in crate::datapath) fn filtered(pin_dir: &Path) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for link in old_links(pin_dir)? {
        if let Kind::Filter(filter) = link.kind
            && (link.maps.is_some() || has_locals(pin_dir, link.ifindex)?)
        {
            names.push(filter.interface);
        }
    }
    Ok(names)
}

/// Says whether sessions over an interface may have a local address by the maps that are pinned here.
fn has_locals(pin_dir: &Path, ifindex: u32) -> Result<bool, String> {
    let path = pin_dir.join(name::LOCALS);
    let fault = |error: io::Error| format!("{}: {error}", path.display());
    if !is_there(&path).map_err(fault)? {
        return Ok(false);
    }
    let keys = RawMap::from_pin(&path).and_then(|map| map.keys());
    let mut keys = keys.map_err(fault)?.into_iter();
    Ok(keys.any(|key| LocalKey::try_read_from_bytes(&key).is_ok_and(|key| key.ifindex == ifindex)))
}

fn of(kind: Kind, ifindex: u32, id: u32) -> Result<OldLink, String> {
    let (program, maps) = match facts(id)? {
        Some((program, maps)) => (program, Some(maps)),
        None => (program_by_place(&kind, ifindex)?, None),
    };
    Ok(OldLink {
        kind,
        ifindex,
        program,
        maps,
    })
}

/// Reads name and maps of a program. None: the kernel tells them to `CAP_SYS_ADMIN` alone.
fn facts(id: u32) -> Result<Option<(String, Vec<u32>)>, String> {
    for program in loaded_programs() {
        let program = match program {
            Ok(program) if program.id() == id => program,
            Err(error) if os_error(&error) == Some(libc::EPERM) => return Ok(None),
            // Of another one, which may have ended meanwhile.
            _ => continue,
        };
        let maps = program.map_ids();
        let maps = maps.map_err(|error| format!("maps of program {id}: {error}"))?;
        let name = program.name_as_str().unwrap_or_default().to_owned();
        return Ok(Some((name, maps.unwrap_or_default())));
    }
    Err(format!("no program {id} any more"))
}

/// Returns the name of the program that every version has at this place.
fn program_by_place(kind: &Kind, ifindex: u32) -> Result<String, String> {
    let hook = match kind {
        Kind::Pin(Pin::Link { mode, .. }) => Hook::Ingress(*mode),
        Kind::Filter(filter) if !filter.egress => Hook::Ingress(AttachMode::Tc),
        _ => Hook::Egress,
    };
    let interfaces = at_once(async |netlink| links::list(netlink).await)?;
    let interface = interfaces
        .into_iter()
        .find(|interface| interface.ifindex == ifindex);
    let interface = interface.ok_or_else(|| format!("no interface {ifindex} here"))?;
    let link = interface
        .link
        .map_err(|unsuitable| unsuitable.to_string())?;
    Ok(hook.program(link).to_owned())
}
