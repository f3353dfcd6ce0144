//! Which interfaces have our filters of the clsact qdisc on them: those of an agent below Linux 6.6.

use aya::programs::TcAttachType;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};

use super::attach::ingress_name;
use super::clsact;
use super::gate::gate_name;
use crate::net::{Netlink, NetlinkError, links};
use dz_common::ingress::Link;

/// A filter of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Name of the interface.
    pub interface: String,
    /// The gate is at egress, everything else at ingress.
    pub egress: bool,
}

impl Filter {
    const fn hook(&self) -> TcAttachType {
        if self.egress {
            TcAttachType::Egress
        } else {
            TcAttachType::Ingress
        }
    }
}

/// Our filters, on whatever interface.
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
            if has_ours(netlink, index, minor).await? {
                let interface = interface.name.clone();
                found.push(Filter { interface, egress });
            }
        }
    }
    Ok(found)
}

/// Takes filters away that [`list`] has found, and lists those that are still there. Only those: in
/// the same place on the other side may be somebody else's.
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

async fn has_ours(netlink: &Netlink, index: i32, minor: u16) -> Result<bool, NetlinkError> {
    let mut message = TcMessage::default();
    message.header.index = index;
    message.header.parent = TcHandle {
        major: TcHandle::CLSACT.major,
        minor,
    };
    let keep = |message| match message {
        RouteNetlinkMessage::NewTrafficFilter(message) => is_ours(&message).then_some(()),
        _ => None,
    };
    let request = RouteNetlinkMessage::GetTrafficFilter(message);
    match netlink.dump(request, keep).await {
        Ok(found) => Ok(!found.is_empty()),
        // No qdisc that could have filters, or gone meanwhile.
        Err(error) if error.errno().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}

/// In our place, and one of our programs: the place alone could be somebody else's.
fn is_ours(message: &TcMessage) -> bool {
    let TcHeader { handle, info, .. } = message.header;
    // The priority is the upper half; below is the protocol.
    let place = (info >> 16, handle.major, handle.minor);
    let links = [Link::Layer3, Link::Ethernet];
    let ours = [links.map(ingress_name), links.map(gate_name)].concat();
    place == (u32::from(clsact::PRIORITY), 0, 1)
        && message.attributes.iter().any(|attribute| match attribute {
            TcAttribute::Options(options) => options.iter().any(|option| {
                matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(name))
                    if ours.contains(&name.as_str()))
            }),
            _ => false,
        })
}
