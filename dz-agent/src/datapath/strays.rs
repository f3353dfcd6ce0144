//! Programs of ours on interfaces that no pin of a directory holds: of a dead agent with another pin directory, or whose
//! BPF file system nobody sees any more. Left there, the old gate drops packets by sessions that nobody keeps.
//!
//! The kernel opens links and programs by their numbers only with `CAP_SYS_ADMIN`, which the agent as a service does not have:
//! `dz-agent prepare` looks for strays, `purge` does, and an agent that root starts by hand.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::{loaded_links, loaded_programs};

use super::causes::os_error;
use super::hook::{AttachMode, Hook};
use super::names::is_ours;
use super::pins::Pin;
use super::raw::{link, query};
use crate::net::links::Interface;

/// A program of ours that no pin holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Name of the interface that it is on.
    pub interface: String,
    /// Name of the program.
    pub program: String,
    /// Kernel id of the link that holds it.
    link: u32,
}

/// Finds the links with programs of ours on these interfaces, which are of this network namespace, that no pin of a directory holds.
///
/// # Errors
/// The kernel could not be asked; it says `EPERM` where a link would have to be opened and we may not.
pub fn strays(pin_dir: &Path, interfaces: &[Interface]) -> io::Result<Vec<Stray>> {
    let mut pinned = Vec::new();
    for pin in Pin::list(pin_dir)? {
        if pin.interface().is_some() {
            pinned.push(link::pinned_facts(&pin.path(pin_dir))?.id);
        }
    }
    let mut at_hooks = HashMap::new();
    for interface in interfaces {
        at_hooks.extend(interface.xdp.map(|program| (program, interface)));
        for hook in [Hook::Ingress(AttachMode::Tc), Hook::Egress] {
            // Below Linux 6.6 there is no TCX, and filters are found by their place.
            let programs = query::tcx(interface.ifindex, hook).unwrap_or_default();
            at_hooks.extend(programs.into_iter().map(|program| (program, interface)));
        }
    }
    let mut found = Vec::new();
    if at_hooks.is_empty() {
        return Ok(found);
    }
    for link in loaded_links() {
        let link = match link {
            Ok(link) => link,
            // Gone since its number was read.
            Err(error) if os_error(&error) == Some(libc::ENOENT) => continue,
            Err(error) => return Err(as_io(error)),
        };
        let Some(interface) = at_hooks.get(&link.program_id()) else {
            continue;
        };
        if pinned.contains(&link.id()) {
            continue;
        }
        let facts = match link::by_id(link.id()) {
            Ok(link) => link::facts(link.as_fd())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let Some(program) = name_of(link.program_id())? else {
            continue;
        };
        if facts.ifindex == interface.ifindex && is_ours(&program) {
            found.push(Stray {
                interface: interface.name.clone(),
                program,
                link: link.id(),
            });
        }
    }
    Ok(found)
}

impl Stray {
    /// Takes the program off its interface.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(&self) -> io::Result<()> {
        match link::by_id(self.link) {
            Ok(link) => link::detach(link.as_fd()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Returns the name of a loaded program, if it still is.
fn name_of(id: u32) -> io::Result<Option<String>> {
    for program in loaded_programs() {
        match program {
            Ok(program) if program.id() == id => {
                return Ok(program.name_as_str().map(str::to_owned));
            }
            Ok(_) => {}
            Err(error) if os_error(&error) == Some(libc::ENOENT) => {}
            Err(error) => return Err(as_io(error)),
        }
    }
    Ok(None)
}

fn as_io(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    match os_error(&error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}
