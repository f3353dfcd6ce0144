//! Adds, deletes and lists our routes: host routes in the main table with our protocol number.
//!
//! A route is ours if it has the number and leads through an interface that is served; no other route is
//! ever changed or deleted. The kernel itself checks both on every deletion, so no race with another
//! daemon (or another agent, on another interface) can make us hit its routes.
//!
//! Ours name their next hop themselves. One that somebody has put on a next hop object, under our number, is
//! ours all the same: it is replaced, and deleted by the object's number, as the kernel wants it.
//!
//! The order of operations on one destination is the caller's business; operations on different
//! destinations may be in flight together.
//!
//! IPv4 routes also vanish without a notification: when their interface goes down, or, in kernels before
//! Linux 6.7 without a backport of its change, when their source address is removed, the kernel flushes
//! them and notifies nobody. Read the table again after such an event.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::NetlinkError;
use super::local;
use super::main_route::{MainRoute, on_object};
use super::netlink::Netlink;
pub use super::route::{Added, Deleted, Foreign, Route, RouteError};

/// `rtm_protocol` of our routes, unless configured otherwise. Not assigned in the kernel's
/// `rtnetlink.h` nor in iproute2's `rt_protos`.
pub const DEFAULT_PROTOCOL: u8 = 144;

/// How often an addition starts over because the table changed between its steps.
const ADD_TRIES: u32 = 4;

/// The kernel's main table, seen by the owner of one protocol number.
#[derive(Clone, Debug)]
pub struct Routes {
    netlink: Netlink,
    protocol: u8,
}

impl Routes {
    /// Makes access to the routes with `protocol`, which are ours.
    pub const fn new(netlink: Netlink, protocol: u8) -> Self {
        Self { netlink, protocol }
    }

    /// Puts the route into the table. When this succeeds, the kernel has it.
    ///
    /// A different route of ours to the destination is deleted first and then this one is added.
    /// For some microseconds there is none; the kernel's own replacement has no such gap, but it
    /// replaces the first route of the same destination and metric whatever its protocol, so that
    /// it can hit a foreign one that has just come.
    ///
    /// # Errors
    /// Somebody else's route is in the way, or the kernel refuses; then nothing of theirs has
    /// changed.
    pub async fn add(&self, route: &Route) -> Result<Added, RouteError> {
        let mut added = Added::New;
        for _ in 0..ADD_TRIES {
            let message = RouteNetlinkMessage::NewRoute(self.message(route));
            match self
                .netlink
                .change(message, NLM_F_CREATE | NLM_F_EXCL)
                .await
            {
                Ok(()) => return Ok(added),
                Err(cause) if cause.errno() == Some(Errno::EEXIST) => {}
                Err(cause) => return Err(RouteError::new(adding(route), cause)),
            }
            // None: it went between the two questions, and the addition is tried again.
            let Some(found) = self.in_the_way(route.dst).await? else {
                continue;
            };
            let is_plain = found.object.is_none();
            if found.route == Some(*route) && found.protocol == self.protocol && is_plain {
                return Ok(Added::AlreadyThere);
            }
            if found.protocol != self.protocol
                || self.interface_of(&found).await? != Some(route.ifindex)
            {
                return Err(RouteError::Conflict {
                    route: *route,
                    foreign: found.foreign(),
                });
            }
            let deleted = match found.object {
                Some(object) => {
                    self.delete_by(route.dst, RouteAttribute::NhId(object))
                        .await
                }
                None => self.delete(route.dst, route.ifindex).await,
            };
            if deleted? == Deleted::Deleted {
                added = Added::Replaced;
            }
        }
        Err(RouteError::new(adding(route), NetlinkError::Interrupted))
    }

    /// Deletes our route to `dst` over the interface, whatever its source and gateway.
    ///
    /// # Errors
    /// The kernel refuses; the route may still be there.
    pub async fn delete(&self, dst: Ipv4Addr, ifindex: u32) -> Result<Deleted, RouteError> {
        let deleted = self.delete_by(dst, RouteAttribute::Oif(ifindex)).await?;
        if deleted == Deleted::Deleted {
            return Ok(deleted);
        }
        // The kernel finds no route on a next hop object by its interface.
        let found = self.in_use(dst).await?;
        let found = found.filter(|found| found.protocol == self.protocol && found.metric == 0);
        let Some((found, object)) = found.and_then(|found| Some((found, found.object?))) else {
            return Ok(deleted);
        };
        if self.interface_of(&found).await? != Some(ifindex) {
            return Ok(deleted);
        }
        self.delete_by(dst, RouteAttribute::NhId(object)).await
    }

    /// Deletes our route to `dst` that has this interface or next hop object.
    async fn delete_by(
        &self,
        dst: Ipv4Addr,
        next_hop: RouteAttribute,
    ) -> Result<Deleted, RouteError> {
        let mut message = main_table(dst);
        message.header.protocol = RouteProtocol::from(self.protocol);
        // RT_SCOPE_NOWHERE is the kernel's "any scope" here.
        message.header.scope = RouteScope::NoWhere;
        message.header.kind = RouteType::Unicast;
        let what = match &next_hop {
            RouteAttribute::NhId(object) => format!("nhid {object}"),
            RouteAttribute::Oif(ifindex) => format!("dev #{ifindex}"),
            _ => String::new(),
        };
        message.attributes.push(next_hop);
        match self
            .netlink
            .change(RouteNetlinkMessage::DelRoute(message), 0)
            .await
        {
            Ok(()) => Ok(Deleted::Deleted),
            Err(cause) => match cause.errno() {
                // ENODEV: the interface is gone, and its routes went with it.
                Some(Errno::ESRCH | Errno::ENODEV) => Ok(Deleted::AlreadyGone),
                _ => {
                    let what = format_args!("deleting route {dst}/32 {what}");
                    Err(RouteError::new(what, cause))
                }
            },
        }
    }

    /// Reads our routes, all or those of one interface. A route with our number that is no host route with
    /// metric 0 cannot be of our making and is left out.
    ///
    /// # Errors
    /// The table could not be read, or kept changing.
    pub async fn list(&self, ifindex: Option<u32>) -> Result<Vec<Route>, RouteError> {
        let mut message = main_table_dump();
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.attributes.extend(ifindex.map(RouteAttribute::Oif));
        let ours = |found: MainRoute| {
            let ours = found.protocol == self.protocol && found.metric == 0;
            (ours && (found.route.is_some() || found.object.is_some())).then_some(found)
        };
        let found = self.dump(message, ours).await;
        let found = found.map_err(|cause| RouteError::new("reading our routes", cause))?;
        let mut routes = Vec::with_capacity(found.len());
        for found in found {
            let route = match found.route {
                Some(route) => Some(route),
                None => {
                    let ifindex = self.interface_of(&found).await?;
                    ifindex.map(|ifindex| on_object(found.dst, ifindex))
                }
            };
            routes.extend(route);
        }
        // The kernel has filtered; a mistake in the request must not make us own other routes.
        routes.retain(|route| ifindex.is_none_or(|ifindex| ifindex == route.ifindex));
        Ok(routes)
    }

    /// Tells whose host route a packet to `dst` would use, if it is not ours: one lookup, however
    /// large the table is.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub async fn foreign(&self, dst: Ipv4Addr) -> Result<Option<Foreign>, RouteError> {
        let found = self.in_use(dst).await?;
        Ok(found
            .filter(|found| found.protocol != self.protocol)
            .map(MainRoute::foreign))
    }

    /// Finds the route that makes the kernel answer EEXIST: same destination, same metric. It need not be
    /// in use (its link may be down, a rule may prefer another table): then the table is read.
    async fn in_the_way(&self, dst: Ipv4Addr) -> Result<Option<MainRoute>, RouteError> {
        if let Some(found) = self.in_use(dst).await?.filter(|found| found.metric == 0) {
            return Ok(Some(found));
        }
        let same = |found: MainRoute| (found.dst == dst && found.metric == 0).then_some(found);
        let found = self.dump(main_table_dump(), same).await;
        let found = found
            .map_err(|cause| RouteError::new(format_args!("reading the routes to {dst}"), cause))?;
        Ok(found.into_iter().next())
    }

    /// Returns the interface that a host route leads through, if it is one. Of a route on a next hop object the
    /// kernel may tell the object alone (`net.ipv4.nexthop_compat_mode` 0): then it is asked where a packet
    /// would go.
    async fn interface_of(&self, found: &MainRoute) -> Result<Option<u32>, RouteError> {
        if found.ifindex.is_some() || found.object.is_none() {
            return Ok(found.ifindex);
        }
        let used = local::look_up(&self.netlink, found.dst, None).await;
        let failed = |cause| RouteError::new(format_args!("looking up {}", found.dst), cause);
        let by = |attribute: &RouteAttribute| match attribute {
            RouteAttribute::Oif(ifindex) => Some(*ifindex),
            _ => None,
        };
        let used = used.map_err(failed)?;
        Ok(used.and_then(|used| used.attributes.iter().find_map(by)))
    }

    /// Looks up the host route in the main table that a packet to `dst` would use, if it would use one.
    async fn in_use(&self, dst: Ipv4Addr) -> Result<Option<MainRoute>, RouteError> {
        let mut message = local::question(dst, None);
        // The entry of the table, not the cached result of the lookup.
        message.header.flags = RouteFlags::FibMatch;
        match self
            .netlink
            .get(RouteNetlinkMessage::GetRoute(message))
            .await
        {
            Ok(RouteNetlinkMessage::NewRoute(message)) => {
                Ok(MainRoute::parse(&message).filter(|found| found.dst == dst))
            }
            Ok(_) => Ok(None),
            // "No route" is an error number here; which one depends on the rules (unreachable,
            // prohibited and so on).
            Err(NetlinkError::Refused { .. }) => Ok(None),
            Err(cause) => Err(RouteError::new(format_args!("looking up {dst}"), cause)),
        }
    }

    async fn dump<T>(
        &self,
        message: RouteMessage,
        keep: impl Fn(MainRoute) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let keep = |message| match message {
            RouteNetlinkMessage::NewRoute(message) => MainRoute::parse(&message).and_then(&keep),
            _ => None,
        };
        let dump = self
            .netlink
            .dump(RouteNetlinkMessage::GetRoute(message), keep)
            .await;
        match dump {
            // The main table is made with its first route; an interface that is gone has none.
            Err(cause) if matches!(cause.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {
                Ok(Vec::new())
            }
            dump => dump,
        }
    }

    fn message(&self, route: &Route) -> RouteMessage {
        let mut message = main_table(route.dst);
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Oif(route.ifindex));
        let src = route
            .src
            .map(|src| RouteAttribute::PrefSource(RouteAddress::Inet(src)));
        message.attributes.extend(src);
        match route.via {
            // A destination on the link itself; the kernel wants this scope for it.
            None => message.header.scope = RouteScope::Link,
            Some(via) => {
                message
                    .attributes
                    .push(RouteAttribute::Gateway(RouteAddress::Inet(via)));
                // Without it the kernel looks the gateway up and refuses one that no prefix of the
                // interface covers (ENETUNREACH), which on a point-to-point device means nothing:
                // whatever is sent into it comes out at the other end.
                message.header.flags = RouteFlags::Onlink;
            }
        }
        message
    }
}

fn adding(route: &Route) -> String {
    format!("adding route {route}")
}

fn main_table(dst: Ipv4Addr) -> RouteMessage {
    let mut message = main_table_dump();
    message.header.destination_prefix_length = 32;
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::Inet(dst)));
    message
}

fn main_table_dump() -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message
}
