//! Reads routes of other daemons for `--follow`, from any table but the kernel's own. Host routes can be
//! followed; of other routes it says why they cannot.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_REPLACE, NetlinkHeader};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::NetlinkError;
use super::host_route::{self, NextHop};
use super::netlink::Netlink;
use crate::reason::PassedOver;
use crate::settings::Follow;

/// `RT_TABLE_LOCAL`.
const LOCAL_TABLE: u32 = 255;
/// Length of a host route's prefix, bits.
pub const HOST_PREFIX: u8 = 32;
/// Types of routes that have no interface.
const NOWHERE: [RouteType; 4] = [
    RouteType::BlackHole,
    RouteType::Unreachable,
    RouteType::Prohibit,
    RouteType::Throw,
];
/// Most interfaces of one route that are told.
const INTERFACES: usize = 4;

/// A route as `--follow` looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Destination.
    pub dst: Ipv4Addr,
    /// Length of its prefix, bits: [`HOST_PREFIX`] if it leads to one address.
    pub prefix_len: u8,
    /// Its table.
    pub table: u32,
    /// Its metric. One table has one route to a destination with a metric and `tos`, or several
    /// that were appended to each other.
    pub metric: u32,
    /// Type of service that it is for, 0 = any.
    pub tos: u8,
    /// Its `rtm_protocol`.
    pub protocol: u8,
    /// Its next hop, if it is a unicast route with exactly one next hop of IPv4, and nothing that
    /// our own packets would not get on the way (labels, tunnels).
    pub path: Option<Path>,
    /// Why it cannot be followed, whatever its destination.
    pub unfit: Option<PassedOver>,
    /// Indices of the interfaces that it leads through, as far as the kernel names them: not behind
    /// a next hop object, and of further ones than these only in a dump by interface. 0 = none.
    pub interfaces: [u32; INTERFACES],
}

impl HostRoute {
    /// Says whether it is a host route that has packets dropped or refused (a blackhole, unreachable,
    /// prohibit or throw route): it is by no interface, and so by none that is not served.
    pub fn leads_nowhere(&self) -> bool {
        self.unfit == Some(PassedOver::NotUnicast) && self.interfaces == [0; INTERFACES]
    }
}

/// The next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Index of its interface.
    pub ifindex: u32,
    /// Source address that it names.
    pub src: Option<Ipv4Addr>,
    /// Its gateway.
    pub via: Option<Ipv4Addr>,
    /// Its `rtm_scope`.
    pub scope: u8,
}

/// A route came, changed or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostChange {
    /// The route.
    pub route: HostRoute,
    /// It is not there any more.
    pub gone: bool,
    /// It took the place of the first route with the same table, destination, metric and tos, whose
    /// end nobody reports.
    pub replaced: bool,
    /// It was put behind those with the same table, destination, metric and tos; a new one is put
    /// before them otherwise.
    pub appended: bool,
}

/// Reads a notification about a route of any table but the kernel's own; none if it is about another.
pub(super) fn change(
    request: &NetlinkHeader,
    message: &RouteMessage,
    gone: bool,
) -> Option<HostChange> {
    Some(HostChange {
        route: parse(message)?,
        gone,
        replaced: !gone && request.flags & NLM_F_REPLACE != 0,
        appended: !gone && request.flags & NLM_F_APPEND != 0,
    })
}

/// Reads a message; none if it is about no route of a table that can be followed.
pub(crate) fn parse(message: &RouteMessage) -> Option<HostRoute> {
    let header = &message.header;
    if header.address_family != AddressFamily::Inet {
        return None;
    }
    let host = host_route::read(message);
    let mut route = HostRoute {
        dst: Ipv4Addr::UNSPECIFIED,
        prefix_len: header.destination_prefix_length,
        table: header.table.into(),
        metric: 0,
        tos: header.tos,
        protocol: header.protocol.into(),
        path: None,
        unfit: None,
        interfaces: [0; INTERFACES],
    };
    let mut obstacle = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => route.table = *id,
            // The default route has none.
            RouteAttribute::Destination(RouteAddress::Inet(addr)) => route.dst = *addr,
            RouteAttribute::Priority(value) => route.metric = *value,
            RouteAttribute::Oif(index) => route.interfaces[0] = *index,
            RouteAttribute::MultiPath(hops) => {
                obstacle = Some(PassedOver::SeveralNextHops);
                for (interface, hop) in route.interfaces.iter_mut().zip(hops) {
                    *interface = hop.interface_index;
                }
            }
            RouteAttribute::Encap(_) | RouteAttribute::Via(_) => {
                obstacle = obstacle.or(Some(PassedOver::NotPlainIpv4));
            }
            _ => {}
        }
    }
    if route.table == LOCAL_TABLE {
        return None;
    }
    let path = host.filter(|read| read.next_hop != NextHop::Other);
    route.path = path.and_then(|read| {
        Some(Path {
            ifindex: read.ifindex?,
            src: read.src,
            via: read.via,
            scope: header.scope.into(),
        })
    });
    route.unfit = if route.prefix_len != HOST_PREFIX {
        Some(PassedOver::ShorterPrefix)
    } else if header.kind != RouteType::Unicast {
        Some(PassedOver::NotUnicast)
    } else if obstacle.is_some() {
        obstacle
    } else if route.path.is_none() {
        // Of its next hop only a number is told.
        Some(PassedOver::NextHopObject)
    } else {
        (route.tos != 0).then_some(PassedOver::Tos)
    };
    Some(route)
}

/// Reads the routes by an interface that are in a table and, if one is named, of a protocol,
/// in the kernel's order. The kernel applies the filter.
///
/// # Errors
/// The table could not be read, or kept changing.
pub async fn list(
    netlink: &Netlink,
    ifindex: u32,
    follow: &Follow,
) -> Result<Vec<HostRoute>, NetlinkError> {
    let mut message = asking(follow);
    message.attributes.push(RouteAttribute::Oif(ifindex));
    dump(netlink, message).await
}

/// Reads the host routes that are by no interface ([`HostRoute::leads_nowhere`]), likewise.
///
/// # Errors
/// The table could not be read, or kept changing.
pub async fn list_nowhere(
    netlink: &Netlink,
    follow: &Follow,
) -> Result<Vec<HostRoute>, NetlinkError> {
    let mut routes = Vec::new();
    for kind in NOWHERE {
        let mut message = asking(follow);
        message.header.kind = kind;
        routes.extend(dump(netlink, message).await?);
    }
    routes.retain(HostRoute::leads_nowhere);
    Ok(routes)
}

fn asking(follow: &Follow) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    // RTA_TABLE has room for all of them.
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.attributes.push(RouteAttribute::Table(follow.table));
    if let Some(protocol) = follow.protocol {
        message.header.protocol = RouteProtocol::from(protocol);
    }
    message
}

async fn dump(netlink: &Netlink, message: RouteMessage) -> Result<Vec<HostRoute>, NetlinkError> {
    let keep = |message| match message {
        RouteNetlinkMessage::NewRoute(message) => parse(&message),
        _ => None,
    };
    match netlink
        .dump(RouteNetlinkMessage::GetRoute(message), keep)
        .await
    {
        // A table is made with its first route; an interface that is gone has none.
        Err(cause) if matches!(cause.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {
            Ok(Vec::new())
        }
        routes => routes,
    }
}

/// A route to follow, for unit tests.
#[cfg(test)]
pub(crate) fn route() -> HostRoute {
    HostRoute {
        dst: Ipv4Addr::new(10, 0, 0, 7),
        prefix_len: HOST_PREFIX,
        table: 254,
        metric: 0,
        tos: 0,
        protocol: 186,
        path: Some(Path {
            ifindex: 7,
            src: Some(Ipv4Addr::new(10, 0, 0, 1)),
            via: None,
            scope: 253,
        }),
        unfit: None,
        interfaces: [7, 0, 0, 0],
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteNextHop;

    use super::*;

    /// A route by interface 7.
    fn message() -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = HOST_PREFIX;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        let dst = RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 7));
        message.attributes.push(RouteAttribute::Destination(dst));
        message.attributes.push(RouteAttribute::Oif(7));
        message
    }

    fn unfit(change: impl FnOnce(&mut RouteMessage)) -> Option<PassedOver> {
        let mut message = message();
        change(&mut message);
        parse(&message).expect("a route").unfit
    }

    #[test]
    fn what_cannot_be_followed_says_why() {
        assert_eq!(unfit(|_| ()), None);
        let wide = |message: &mut RouteMessage| message.header.destination_prefix_length = 31;
        assert_eq!(unfit(wide), Some(PassedOver::ShorterPrefix));
        let tos = |message: &mut RouteMessage| message.header.tos = 0x10;
        assert_eq!(unfit(tos), Some(PassedOver::Tos));
        for kind in [RouteType::Broadcast, RouteType::Local, RouteType::Multicast] {
            let other = |message: &mut RouteMessage| message.header.kind = kind;
            assert_eq!(unfit(other), Some(PassedOver::NotUnicast));
        }
        let object = |message: &mut RouteMessage| {
            message.attributes[1] = RouteAttribute::NhId(5);
        };
        assert_eq!(unfit(object), Some(PassedOver::NextHopObject));
        let told = |message: &mut RouteMessage| message.attributes.push(RouteAttribute::NhId(5));
        assert_eq!(
            unfit(told),
            None,
            "an object with one next hop, told in full"
        );
        let labelled = |message: &mut RouteMessage| {
            message.attributes.push(RouteAttribute::Encap(Vec::new()));
        };
        assert_eq!(unfit(labelled), Some(PassedOver::NotPlainIpv4));
    }

    #[test]
    fn who_leads_nowhere() {
        let mut message = message();
        assert!(!parse(&message).expect("a route").leads_nowhere());
        message.header.kind = RouteType::Unreachable;
        assert!(!parse(&message).expect("a route").leads_nowhere(), "by 7");
        message.attributes.remove(1);
        assert!(parse(&message).expect("a route").leads_nowhere());
        message.header.destination_prefix_length = 24;
        assert!(
            !parse(&message).expect("a route").leads_nowhere(),
            "an aggregate"
        );
    }

    #[test]
    fn several_next_hops_are_by_their_interfaces() {
        let mut message = message();
        let hop = |interface_index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface_index;
            hop
        };
        let hops = vec![hop(8), hop(7)];
        // As of a group of next hop objects where they are told in full.
        message.attributes[1] = RouteAttribute::MultiPath(hops);
        message.attributes.push(RouteAttribute::NhId(5));
        let route = parse(&message).expect("a route");
        assert_eq!(route.unfit, Some(PassedOver::SeveralNextHops));
        assert_eq!((route.path, route.interfaces), (None, [8, 7, 0, 0]));
    }

    #[test]
    fn the_default_route_has_no_destination() {
        let mut message = message();
        message.header.destination_prefix_length = 0;
        message.attributes.remove(0);
        let route = parse(&message).expect("a route");
        assert_eq!((route.dst, route.prefix_len), (Ipv4Addr::UNSPECIFIED, 0));
        assert_eq!(route.unfit, Some(PassedOver::ShorterPrefix));
    }
}
