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

/// Names of the interfaces with a filter of ours on them.
///
/// # Errors
/// The kernel could not be asked.
pub async fn list(netlink: &Netlink) -> Result<Vec<String>, NetlinkError> {
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
        for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
            if has_ours(netlink, index, minor).await? {
                found.push(interface.name);
                break;
            }
        }
    }
    Ok(found)
}

/// Takes our filters off interfaces that [`list`] has named, and names those that still have one.
///
/// # Errors
/// The kernel could not be asked.
pub async fn detach(netlink: &Netlink, interfaces: &[String]) -> Result<Vec<String>, NetlinkError> {
    if interfaces.is_empty() {
        return Ok(Vec::new());
    }
    for interface in interfaces {
        for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
            clsact::detach(interface, hook);
        }
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
