//! Finds and removes our filters of the clsact qdisc, which an agent below Linux 6.6 has put on interfaces.

use std::thread;

use aya::programs::TcAttachType;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};

use super::clsact;
use super::names::{gate_name, ingress_name};
use crate::net::{Netlink, NetlinkError, links};
use dz_common::ingress::Link;

/// A filter of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Name of the interface.
    pub interface: String,
    /// Index of the interface.
    pub ifindex: u32,
    /// The gate is at egress, everything else at ingress.
    pub egress: bool,
    /// Kernel id of its program.
    pub program: u32,
}

impl Filter {
    pub(super) const fn hook(&self) -> TcAttachType {
        if self.egress {
            TcAttachType::Egress
        } else {
            TcAttachType::Ingress
        }
    }
}

/// Lists our filters on every interface.
///
/// # Errors
/// The kernel could not be asked.
pub async fn list(netlink: &Netlink) -> Result<Vec<Filter>, NetlinkError> {
    let keep = |message| match message {
        RouteNetlinkMessage::NewLink(message) => Some(links::interface(&message)),
        _ => None,
    };
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut found = Vec::new();
    for interface in netlink.dump(request, keep).await? {
        let Ok(index) = i32::try_from(interface.ifindex) else {
            continue;
        };
        for (minor, egress) in [(TcHandle::MIN_INGRESS, false), (TcHandle::MIN_EGRESS, true)] {
            if let Some(program) = program_of_ours(netlink, index, minor).await? {
                found.push(Filter {
                    interface: interface.name.clone(),
                    ifindex: interface.ifindex,
                    egress,
                    program,
                });
            }
        }
    }
    Ok(found)
}

/// Lists our filters while the caller's thread waits: for code that cannot await.
///
/// # Errors
/// The kernel could not be asked.
pub(super) fn list_at_once() -> Result<Vec<Filter>, String> {
    let list = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let netlink = Netlink::open().map_err(|error| error.to_string())?;
            list(&netlink).await.map_err(|error| error.to_string())
        })
    };
    // A runtime does not start on the thread of another one.
    let listed = thread::scope(|scope| scope.spawn(list).join());
    let listed = listed.unwrap_or_else(|_| Err("the thread has died".to_owned()));
    listed.map_err(|error| format!("reading the filters of the interfaces: {error}"))
}

/// Takes filters away that [`list`] has found, and lists those that are still there. No others are taken
/// away: in the same place on the other side may be somebody else's.
///
/// # Errors
/// The kernel could not be asked.
pub async fn detach(netlink: &Netlink, filters: &[Filter]) -> Result<Vec<Filter>, NetlinkError> {
    if filters.is_empty() {
        return Ok(Vec::new());
    }
    for filter in filters {
        clsact::detach(&filter.interface, filter.hook());
    }
    list(netlink).await
}

async fn program_of_ours(
    netlink: &Netlink,
    index: i32,
    minor: u16,
) -> Result<Option<u32>, NetlinkError> {
    let mut message = TcMessage::default();
    message.header.index = index;
    message.header.parent = TcHandle {
        major: TcHandle::CLSACT.major,
        minor,
    };
    let keep = |message| match message {
        RouteNetlinkMessage::NewTrafficFilter(message) => program(&message),
        _ => None,
    };
    let request = RouteNetlinkMessage::GetTrafficFilter(message);
    match netlink.dump(request, keep).await {
        Ok(found) => Ok(found.first().copied()),
        // No qdisc that could have filters, or gone meanwhile.
        Err(error) if error.errno().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the id of a filter's program if priority and handle are ours, and the program is one of ours:
/// somebody else's filter could have the same numbers.
fn program(message: &TcMessage) -> Option<u32> {
    let TcHeader { handle, info, .. } = message.header;
    // The priority is the upper half; below is the protocol.
    let place = (info >> 16, handle.major, handle.minor);
    if place != (u32::from(clsact::PRIORITY), 0, 1) {
        return None;
    }
    let links = [Link::Layer3, Link::Ethernet];
    let ours = [links.map(ingress_name), links.map(gate_name)].concat();
    let options = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
    let (mut id, mut named) = (None, false);
    for option in options.flatten() {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                named = ours.contains(&name.as_str())
            }
            TcOption::Bpf(TcFilterBpfOption::ProgId(found)) => id = Some(*found),
            _ => {}
        }
    }
    id.filter(|_| named)
}
