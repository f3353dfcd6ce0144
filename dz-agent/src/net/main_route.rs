//! One host route of the main table, as the kernel tells of it.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::route::{RouteHeader, RouteMessage};

use super::host_route::{self, NextHop};
use super::route::{Foreign, Route};

/// A host route of the main table, whichever its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MainRoute {
    pub(super) dst: Ipv4Addr,
    pub(super) protocol: u8,
    pub(super) metric: u32,
    pub(super) ifindex: Option<u32>,
    /// The number of its next hop object, if it uses one.
    pub(super) object: Option<u32>,
    /// Set if it has the shape of ours, or is on a next hop object and known to be by an interface.
    pub(super) route: Option<Route>,
}

impl MainRoute {
    pub(super) const fn foreign(self) -> Foreign {
        Foreign {
            protocol: self.protocol,
            ifindex: self.ifindex,
            metric: self.metric,
        }
    }

    pub(super) fn parse(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let read = host_route::read(message)?;
        // Only tos 0 meets ours in the table.
        if header.tos != 0 || read.table != u32::from(RouteHeader::RT_TABLE_MAIN) {
            return None;
        }
        let ifindex = read.ifindex.filter(|_| read.metric == 0);
        let route = ifindex.and_then(|ifindex| match read.next_hop {
            NextHop::Plain => Some(Route {
                dst: read.dst,
                ifindex,
                src: read.src,
                via: read.via,
            }),
            NextHop::Object => Some(on_object(read.dst, ifindex)),
            NextHop::Other => None,
        });
        Some(Self {
            dst: read.dst,
            protocol: header.protocol.into(),
            metric: read.metric,
            ifindex: read.ifindex,
            object: read.object,
            route,
        })
    }
}

/// Our route as it is read when it is on a next hop object: never the one that is wanted.
pub(super) const fn on_object(dst: Ipv4Addr, ifindex: u32) -> Route {
    Route {
        dst,
        ifindex,
        src: None,
        via: None,
    }
}
