//! Our own routes, as [`crate::net::routes::Routes`] adds, deletes and lists them.

use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::addresses::SCOPE_LINK;
use super::fib::{Entry, Kind, MAIN, Mode, Which};
use super::namespace::{Author, Net};
use crate::net::NetlinkError;
use crate::net::routes::{Added, Deleted, Foreign, Route, RouteError};

/// How often an addition starts over.
const ADD_TRIES: u32 = 4;

/// A route as an entry of the main table.
const fn entry(protocol: u8, route: &Route) -> Entry {
    Entry {
        table: MAIN,
        dst: route.dst,
        prefix_len: 32,
        tos: 0,
        metric: 0,
        protocol,
        scope: match route.via {
            Some(_) => 0,
            None => SCOPE_LINK,
        },
        kind: Kind::Unicast,
        ifindex: Some(route.ifindex),
        src: route.src,
        via: route.via,
    }
}

/// The route that an entry is, if it has the shape of ours.
fn route(entry: &Entry) -> Option<Route> {
    let plain = entry.kind == Kind::Unicast && entry.metric == 0;
    let ifindex = entry.ifindex.filter(|_| plain && is_host(entry))?;
    Some(Route {
        dst: entry.dst,
        ifindex,
        src: entry.src,
        via: entry.via,
    })
}

const fn is_host(entry: &Entry) -> bool {
    entry.prefix_len == 32 && entry.tos == 0
}

impl Net {
    /// Adds a route of ours, in place of a different one of ours by the same interface. `protocol`: our
    /// number.
    ///
    /// # Errors
    /// Somebody else's route is in the way, or the kernel refuses.
    pub fn add_route(&mut self, protocol: u8, new: &Route) -> Result<Added, RouteError> {
        let refused = |cause| RouteError::Netlink {
            what: format!("adding route {new}"),
            cause,
        };
        let mut added = Added::New;
        for _ in 0..ADD_TRIES {
            match self.add_entry(Author::Us, entry(protocol, new), Mode::Exclusive) {
                Ok(()) => return Ok(added),
                Err(cause) if cause.errno() == Some(Errno::EEXIST) => {}
                Err(cause) => return Err(refused(cause)),
            }
            let Some(found) = self.in_the_way(new.dst) else {
                continue;
            };
            if route(&found) == Some(*new) && found.protocol == protocol {
                return Ok(Added::AlreadyThere);
            }
            if found.protocol != protocol || found.ifindex != Some(new.ifindex) {
                return Err(RouteError::Conflict {
                    route: *new,
                    foreign: Foreign {
                        protocol: found.protocol,
                        ifindex: found.ifindex,
                        metric: found.metric,
                    },
                });
            }
            if self.delete_route(protocol, new.dst, new.ifindex) == Deleted::Deleted {
                added = Added::Replaced;
            }
        }
        Err(refused(NetlinkError::Interrupted))
    }

    /// Deletes our route to a destination by an interface.
    pub fn delete_route(&mut self, protocol: u8, dst: Ipv4Addr, ifindex: u32) -> Deleted {
        let mut which = Which::to(MAIN, dst, 32);
        which.protocol = protocol;
        which.kind = Some(Kind::Unicast);
        which.ifindex = Some(ifindex);
        match self.delete_entry(Author::Us, &which) {
            Ok(()) => Deleted::Deleted,
            Err(_) => Deleted::AlreadyGone,
        }
    }

    /// Reads all of our routes.
    pub fn routes(&self, protocol: u8) -> Vec<Route> {
        let ours = self.entries(MAIN);
        let ours = ours.filter(|entry| entry.protocol == protocol);
        ours.filter_map(route).collect()
    }

    /// The route that is taken to be why an addition was refused. It need not be the one: an address of
    /// this host comes before the routes of the main table.
    fn in_the_way(&self, dst: Ipv4Addr) -> Option<Entry> {
        let in_use = self.fib.look_up(dst, None).ok();
        let in_use = in_use.filter(|entry| is_host(entry) && entry.metric == 0);
        let same = |entry: &&Entry| entry.dst == dst && is_host(entry) && entry.metric == 0;
        in_use.or_else(|| self.entries(MAIN).find(same)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::links::Shape;
    use super::*;
    use crate::net::links::{Address, Tunnel};

    const OURS: u8 = 144;
    const DST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
    const SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    /// A namespace with a tunnel that holds [`SRC`], and the route of ours by it.
    fn net() -> (Net, Route) {
        let mut net = Net::new(true);
        let tunnel = Shape::gre(Tunnel::default());
        let ifindex = net.create_link("gre1", tunnel).expect("created");
        net.set_up(ifindex, true).expect("up");
        let address = Address::plain(SRC, 31);
        net.add_address(ifindex, address).expect("added");
        let route = Route {
            dst: DST,
            ifindex,
            src: Some(SRC),
            via: None,
        };
        (net, route)
    }

    #[test]
    fn ours_is_added_once_and_replaced_by_ours() {
        let (mut net, route) = net();
        assert_eq!(net.add_route(OURS, &route), Ok(Added::New));
        assert_eq!(net.add_route(OURS, &route), Ok(Added::AlreadyThere));
        let other = Route {
            via: Some(Ipv4Addr::new(10, 0, 0, 0)),
            ..route
        };
        assert_eq!(net.add_route(OURS, &other), Ok(Added::Replaced));
        assert_eq!(net.routes(OURS), [other]);
        let ifindex = route.ifindex;
        assert_eq!(net.delete_route(OURS, DST, ifindex), Deleted::Deleted);
        assert_eq!(net.delete_route(OURS, DST, ifindex), Deleted::AlreadyGone);
        assert_eq!(net.routes(OURS), []);
    }

    #[test]
    fn theirs_is_in_the_way() {
        let (mut net, route) = net();
        let theirs = entry(186, &route);
        let by = Author::Other(9);
        net.add_entry(by, theirs, Mode::Exclusive).expect("added");
        let error = net.add_route(OURS, &route).expect_err("a conflict");
        let foreign = Foreign {
            protocol: 186,
            ifindex: Some(route.ifindex),
            metric: 0,
        };
        assert_eq!(error.conflict(), Some(&foreign));
        assert_eq!(
            net.delete_route(OURS, DST, route.ifindex),
            Deleted::AlreadyGone
        );
    }

    #[test]
    fn the_source_must_be_ours() {
        let (mut net, mut route) = net();
        route.src = Some(DST);
        let error = net.add_route(OURS, &route).expect_err("refused");
        assert_eq!(error.errno(), Some(Errno::EINVAL));
        net.set_up(route.ifindex, false).expect("down");
        let error = net.add_route(OURS, &route).expect_err("refused");
        assert_eq!(error.errno(), Some(Errno::ENETDOWN));
        net.delete_link(route.ifindex).expect("deleted");
        let error = net.add_route(OURS, &route).expect_err("refused");
        assert_eq!(error.errno(), Some(Errno::ENODEV));
    }
}
