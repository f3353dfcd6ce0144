//! Reads Ethernet addresses of next hops from the kernel's neighbour table, and has it resolve them.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::NetlinkError;
use super::netlink::Netlink;

/// Returns the Ethernet address of a neighbour if the kernel knows it; if not, has the kernel
/// resolve it, whose outcome is an event of [`super::monitor`].
///
/// # Errors
/// The kernel refuses, for instance because the interface is gone.
pub async fn resolve(
    netlink: &Netlink,
    ifindex: u32,
    address: Ipv4Addr,
) -> Result<Option<[u8; 6]>, NetlinkError> {
    // Look first: NTF_USE on an entry that the administrator made permanent would undo that.
    let question = RouteNetlinkMessage::GetNeighbour(message(ifindex, address));
    match netlink.get(question).await {
        Ok(RouteNetlinkMessage::NewNeighbour(answer)) => {
            if let Some((_, Some(mac))) = neighbour(&answer) {
                return Ok(Some(mac));
            }
        }
        Ok(_) => {}
        Err(error) if error.errno() == Some(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    // NTF_USE: as if a packet were to be sent there (neigh_add in net/core/neighbour.c).
    let mut use_it = message(ifindex, address);
    use_it.header.flags = NeighbourFlags::Use;
    let use_it = RouteNetlinkMessage::NewNeighbour(use_it);
    netlink.change(use_it, NLM_F_CREATE).await?;
    Ok(None)
}

/// Returns the neighbours of an interface that the kernel knows an Ethernet address of, in one dump.
///
/// # Errors
/// The kernel refuses or does not answer.
pub async fn list(
    netlink: &Netlink,
    ifindex: u32,
) -> Result<Vec<(Ipv4Addr, [u8; 6])>, NetlinkError> {
    // In a dump the index is an attribute: strict checking refuses one in the header.
    let mut question = NeighbourMessage::default();
    question.header.family = AddressFamily::Inet;
    question
        .attributes
        .push(NeighbourAttribute::IfIndex(ifindex));
    let keep = |answer| match answer {
        RouteNetlinkMessage::NewNeighbour(answer) if answer.header.ifindex == ifindex => {
            let (address, mac) = neighbour(&answer)?;
            Some((address, mac?))
        }
        _ => None,
    };
    netlink
        .dump(RouteNetlinkMessage::GetNeighbour(question), keep)
        .await
}

/// Reads a neighbour message of the kernel: the address, and the Ethernet address while it is
/// good for sending; none if it is not about an IPv4 neighbour.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(Ipv4Addr, Option<[u8; 6]>)> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(*found)
            }
            NeighbourAttribute::LinkLayerAddress(found) => mac = found.as_slice().try_into().ok(),
            _ => {}
        }
    }
    // NUD_VALID of the kernel, less NUD_NOARP, which has no address to send to.
    let valid = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    Some((address?, mac.filter(|_| valid)))
}

fn message(ifindex: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = ifindex;
    let destination = NeighbourAttribute::Destination(NeighbourAddress::Inet(address));
    message.attributes.push(destination);
    message
}
