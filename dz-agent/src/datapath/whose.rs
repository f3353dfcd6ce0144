//! Finds out whether the pinned links of a directory are on interfaces of this network namespace.
//!
//! Names and numbers of interfaces are the same in many namespaces. An agent that took over links of another namespace
//! would set routes here by the liveness of peers there.

use std::io;
use std::path::Path;

use super::hook::Hook;
use super::pins::Pin;
use super::raw::link::{self, LinkInfo};
use super::raw::query;
use crate::error::{ExitCode, FailWith, Failure};
use crate::net::Netlink;
use crate::net::links::{self, Interface};

/// Checks that every pinned link in a directory that still is on an interface is on one of this network namespace.
///
/// # Errors
/// [`ExitCode::Busy`] if one is not; [`ExitCode::Failure`] if that cannot be found out.
pub async fn check_pins(pin_dir: &Path) -> Result<(), Failure> {
    let shown = pin_dir.display();
    let pins = Pin::list(pin_dir).fail_with(ExitCode::Failure, || shown.to_string())?;
    let netlink = Netlink::open().fail_with(ExitCode::Failure, || "netlink")?;
    let interfaces = links::list(&netlink).await;
    let interfaces = interfaces.fail_with(ExitCode::Failure, || "reading the interfaces")?;
    for pin in pins {
        let hook = match &pin {
            Pin::Link { mode, .. } => Hook::Ingress(*mode),
            Pin::Gate(_) => Hook::Egress,
            Pin::Map(_) => continue,
        };
        let path = pin.path(pin_dir);
        let link = link::pinned_facts(&path);
        let link = link.fail_with(ExitCode::Failure, || path.display().to_string())?;
        // A pinned link outlives its device.
        let is_here = is_here(&link, hook, &interfaces);
        let is_here = is_here.fail_with(ExitCode::Failure, || path.display().to_string())?;
        if link.ifindex != 0 && !is_here {
            let what = format!(
                "pin directory {shown}: {} holds a program on an interface of another network namespace (index {} \
                 there): start the agent there, run `dz-agent purge` there, or give this one another --pin-dir",
                path.display(),
                link.ifindex
            );
            return Err(Failure::new(ExitCode::Busy, what));
        }
    }
    Ok(())
}

fn is_here(link: &LinkInfo, hook: Hook, interfaces: &[Interface]) -> io::Result<bool> {
    let with_index = interfaces.iter().find(|i| i.ifindex == link.ifindex);
    with_index.map_or(Ok(false), |interface| is_on(link, interface, hook))
}

/// Says whether a link is on an interface.
///
/// # Errors
/// The kernel could not be asked.
pub(super) fn is_on(link: &LinkInfo, interface: &Interface, hook: Hook) -> io::Result<bool> {
    if link.ifindex != interface.ifindex {
        return Ok(false);
    }
    if hook.is_xdp() {
        return Ok(interface.xdp == Some(link.program));
    }
    match query::tcx(link.ifindex, hook) {
        // It is gone since it was read.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        programs => Ok(programs?.contains(&link.program)),
    }
}
