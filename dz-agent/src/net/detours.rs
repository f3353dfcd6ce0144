//! The way around: by which of some interfaces the kernel has the best route to a destination.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::{self, Interface};
use super::{Netlink, NetlinkError};

/// The interfaces that can carry packets on their own: up, no loopback, and not part of another
/// one (a bridge, a bond, a VRF), which has the routes in its place.
///
/// # Errors
/// The kernel could not be asked.
pub async fn carriers(netlink: &Netlink) -> Result<Vec<Interface>, NetlinkError> {
    let keep = |message| match message {
        RouteNetlinkMessage::NewLink(message) => is_carrier(&message)
            .then(|| links::interface(&message))
            .filter(|interface| interface.up && interface.running),
        _ => None,
    };
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    netlink.dump(request, keep).await
}

fn is_carrier(message: &LinkMessage) -> bool {
    let part_of_another = message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::Controller(master) if *master != 0));
    !part_of_another && !message.header.flags.contains(LinkFlags::Loopback)
}

/// The best route to `dst` by one of the interfaces: the longest prefix, then the lowest metric,
/// then the first interface; 0 if there is none.
///
/// # Errors
/// The kernel could not be asked.
pub async fn best(
    netlink: &Netlink,
    dst: Ipv4Addr,
    interfaces: &[u32],
) -> Result<u32, NetlinkError> {
    let mut found = Vec::new();
    for &ifindex in interfaces {
        if let Some(preference) = route(netlink, dst, ifindex).await? {
            found.push((preference, ifindex));
        }
    }
    Ok(found
        .into_iter()
        .min_by_key(|(preference, _)| *preference)
        .map_or(0, |(_, ifindex)| ifindex))
}

/// How good the route by an interface is: the smallest is the best.
type Preference = (std::cmp::Reverse<u8>, u32);

async fn route(
    netlink: &Netlink,
    dst: Ipv4Addr,
    ifindex: u32,
) -> Result<Option<Preference>, NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    // The entry of the table: without one the kernel would take the destination for a neighbour.
    message.header.flags = RouteFlags::FibMatch;
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::Inet(dst)));
    message.attributes.push(RouteAttribute::Oif(ifindex));
    let answer = netlink.get(RouteNetlinkMessage::GetRoute(message)).await;
    match answer {
        Ok(RouteNetlinkMessage::NewRoute(message)) => Ok(preference(&message)),
        Ok(_) => Ok(None),
        // "No route" is an error number here, and so are unreachable, prohibited and so on.
        Err(NetlinkError::Refused { .. }) => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn preference(message: &RouteMessage) -> Option<Preference> {
    // Not an address of this host.
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let metric = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
    let length = std::cmp::Reverse(message.header.destination_prefix_length);
    Some((length, metric.unwrap_or(0)))
}

/// Reads which interfaces hold which IPv4 addresses.
///
/// # Errors
/// The kernel could not be asked.
pub async fn held(netlink: &Netlink) -> Result<Vec<(u32, Ipv4Addr)>, NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    let keep = |message| match message {
        RouteNetlinkMessage::NewAddress(message) => {
            let address = links::address(&message)?;
            Some((message.header.index, address.local))
        }
        _ => None,
    };
    let request = RouteNetlinkMessage::GetAddress(message);
    netlink.dump(request, keep).await
}
