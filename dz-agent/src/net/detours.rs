//! Looks up the way around: the best of the kernel's routes to a destination by some interfaces.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType,
};

use super::error::NetlinkError;
use super::links::{self, Interface};
use super::local::question;
use super::netlink::Netlink;

/// Reads the interfaces that can carry packets on their own: up, no loopback, and not part of another
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

/// The addresses of a session's packets, by which the kernel looks up a way around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Their destination: the peer.
    pub dst: Ipv4Addr,
    /// Their source: our address. Rules (`ip rule from`) may look at it.
    pub src: Ipv4Addr,
}

/// The way around for a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The interface; 0 if there is none.
    pub ifindex: u32,
    /// The source that its route names. When this host loses that address, the kernel flushes the
    /// route without a word.
    pub named: Option<Ipv4Addr>,
}

/// Finds the best route of a flow by one of the interfaces. An interface that holds the source comes
/// first, for its network takes that source; then the longest prefix, the lowest metric, the first
/// interface.
///
/// # Errors
/// The kernel could not be asked.
pub async fn best(
    netlink: &Netlink,
    flow: Flow,
    interfaces: &[u32],
    holders: &[u32],
) -> Result<Way, NetlinkError> {
    let mut found = Vec::new();
    for &ifindex in interfaces {
        if let Some((preference, named)) = route(netlink, flow, ifindex).await? {
            let is_strange = !holders.contains(&ifindex);
            found.push(((is_strange, preference), Way { ifindex, named }));
        }
    }
    let best = found.into_iter().min_by_key(|(preference, _)| *preference);
    Ok(best.map_or_else(Way::default, |(_, way)| way))
}

/// The rank of a route by an interface: the smallest is the best.
type Preference = (std::cmp::Reverse<u8>, u32);

async fn route(
    netlink: &Netlink,
    flow: Flow,
    ifindex: u32,
) -> Result<Option<(Preference, Option<Ipv4Addr>)>, NetlinkError> {
    let mut message = question(flow.dst, Some(ifindex));
    // The entry of the table: without one the kernel would take the destination for a neighbour.
    message.header.flags = RouteFlags::FibMatch;
    message.header.source_prefix_length = 32;
    message
        .attributes
        .push(RouteAttribute::Source(RouteAddress::Inet(flow.src)));
    let answer = netlink.get(RouteNetlinkMessage::GetRoute(message)).await;
    match answer {
        Ok(RouteNetlinkMessage::NewRoute(message)) => Ok(preference(&message)),
        Ok(_) => Ok(None),
        // "No route" is an error number here, and so are unreachable, prohibited and so on.
        Err(NetlinkError::Refused { .. }) => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn preference(message: &RouteMessage) -> Option<(Preference, Option<Ipv4Addr>)> {
    // Not an address of this host.
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut metric, mut named) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => named = Some(*source),
            _ => {}
        }
    }
    let length = std::cmp::Reverse(message.header.destination_prefix_length);
    Some(((length, metric), named))
}
