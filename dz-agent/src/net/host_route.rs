//! Reads a route message of the kernel, for all who look at IPv4 host routes.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

/// A route to one address, a /32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) dst: Ipv4Addr,
    pub(super) table: u32,
    pub(super) metric: u32,
    pub(super) ifindex: Option<u32>,
    pub(super) src: Option<Ipv4Addr>,
    pub(super) via: Option<Ipv4Addr>,
    pub(super) next_hop: NextHop,
    /// The number of its next hop object, if it uses one.
    pub(super) object: Option<u32>,
}

/// How a route names its next hop, from the plainest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NextHop {
    /// Itself: an interface, and perhaps a gateway.
    Plain,
    /// By the number of a next hop object (FRR makes them), and in full besides if that has one
    /// next hop.
    Object,
    /// Several, none (it is not unicast), or one that adds or wants more than IPv4: labels, a
    /// tunnel, a gateway of IPv6.
    Other,
}

/// Reads a message; none if it is not about an IPv4 host route.
pub(super) fn read(message: &RouteMessage) -> Option<Read> {
    let header = &message.header;
    if header.address_family != AddressFamily::Inet || header.destination_prefix_length != 32 {
        return None;
    }
    let mut table = u32::from(header.table);
    let (mut dst, mut src, mut via, mut ifindex) = (None, None, None, None);
    let (mut metric, mut object) = (0, None);
    let mut next_hop = match header.kind {
        RouteType::Unicast => NextHop::Plain,
        _ => NextHop::Other,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(RouteAddress::Inet(addr)) => dst = Some(*addr),
            RouteAttribute::PrefSource(RouteAddress::Inet(addr)) => src = Some(*addr),
            RouteAttribute::Gateway(RouteAddress::Inet(addr)) => via = Some(*addr),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::NhId(id) => {
                next_hop = next_hop.max(NextHop::Object);
                object = Some(*id);
            }
            RouteAttribute::MultiPath(_) | RouteAttribute::Encap(_) | RouteAttribute::Via(_) => {
                next_hop = NextHop::Other;
            }
            _ => {}
        }
    }
    Some(Read {
        dst: dst?,
        table,
        metric,
        ifindex,
        src,
        via,
        next_hop,
        object,
    })
}
