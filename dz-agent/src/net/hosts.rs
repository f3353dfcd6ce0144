//! Host routes of other daemons, of any table but the kernel's own: what `--follow` looks at.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_REPLACE, NetlinkHeader};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::host_route::{self, NextHop};
use super::{Netlink, NetlinkError};
use crate::follow::Follow;

/// `RT_TABLE_LOCAL`.
const LOCAL_TABLE: u32 = 255;

/// A route to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Destination, a /32.
    pub dst: Ipv4Addr,
    /// Its table.
    pub table: u32,
    /// Its metric. One table has one route to a destination with a metric and `tos`, or several
    /// that were appended to each other.
    pub metric: u32,
    /// Type of service that it is for, 0 = any.
    pub tos: u8,
    /// Its `rtm_protocol`.
    pub protocol: u8,
    /// Where it leads, if it is a unicast route with exactly one next hop of IPv4, and nothing that
    /// our own packets would not get on the way (labels, tunnels).
    pub path: Option<Path>,
}

/// Where a route leads.
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

/// A host route came, changed or went.
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

/// What a notification says about a host route, if it is about one.
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

fn parse(message: &RouteMessage) -> Option<HostRoute> {
    let header = &message.header;
    let read = host_route::read(message).filter(|read| read.table != LOCAL_TABLE)?;
    let path = |ifindex| Path {
        ifindex,
        src: read.src,
        via: read.via,
        scope: header.scope.into(),
    };
    let ifindex = read.ifindex.filter(|_| read.next_hop != NextHop::Other);
    Some(HostRoute {
        dst: read.dst,
        table: read.table,
        metric: read.metric,
        tos: header.tos,
        protocol: header.protocol.into(),
        path: ifindex.map(path),
    })
}

/// Reads the host routes by an interface that are in a table and, if one is named, of a protocol,
/// in the kernel's order. The kernel applies the filter.
///
/// # Errors
/// The table could not be read, or kept changing.
pub async fn list(
    netlink: &Netlink,
    ifindex: u32,
    follow: &Follow,
) -> Result<Vec<HostRoute>, NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    // RTA_TABLE has room for all of them.
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.attributes.push(RouteAttribute::Table(follow.table));
    message.attributes.push(RouteAttribute::Oif(ifindex));
    if let Some(protocol) = follow.protocol {
        message.header.protocol = RouteProtocol::from(protocol);
    }
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
    }
}
