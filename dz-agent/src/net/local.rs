//! Asks the kernel which addresses are this host's own, and which it would send from.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::NetlinkError;
use super::netlink::Netlink;

/// Asks whether an address is this host's own (`RTN_LOCAL`), in a VRF or outside of all. Addresses
/// of any interface are, and those that the table `local` was given by hand (`ip route add local`).
/// The kernel takes the same for the source of a route (`fib_valid_prefsrc`).
///
/// # Errors
/// The kernel could not be asked.
pub async fn is_local(
    netlink: &Netlink,
    address: Ipv4Addr,
    vrf: Option<u32>,
) -> Result<bool, NetlinkError> {
    let found = look_up(netlink, address, vrf).await?;
    Ok(found.is_some_and(|route| route.header.kind == RouteType::Local))
}

/// Asks which source address the kernel would choose for packets to a destination by an interface.
///
/// # Errors
/// The kernel could not be asked.
pub async fn source_to(
    netlink: &Netlink,
    dst: Ipv4Addr,
    ifindex: u32,
) -> Result<Option<Ipv4Addr>, NetlinkError> {
    let found = look_up(netlink, dst, Some(ifindex)).await?;
    Ok(found.and_then(|route| {
        route
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) => Some(*source),
                _ => None,
            })
    }))
}

/// Looks a route up; none where the kernel has no route, or one that drops or refuses packets.
pub(super) async fn look_up(
    netlink: &Netlink,
    dst: Ipv4Addr,
    oif: Option<u32>,
) -> Result<Option<RouteMessage>, NetlinkError> {
    let request = RouteNetlinkMessage::GetRoute(question(dst, oif));
    match netlink.get(request).await {
        Ok(RouteNetlinkMessage::NewRoute(message)) => Ok(Some(message)),
        Ok(_) | Err(NetlinkError::Refused { .. }) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Makes the request for the route to an address, by an interface if one is named.
pub(super) fn question(dst: Ipv4Addr, oif: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::Inet(dst)));
    message.attributes.extend(oif.map(RouteAttribute::Oif));
    message
}
