//! Follows the host routes of other daemons (`--follow`), which make peers. The routes themselves are never
//! touched: the gate alone keeps traffic off them.

use std::net::Ipv4Addr;

use anyhow::Context;
use dz_common::map::{Origin, Peer, PeerKey};
use tracing::{info, warn};

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::followed::Says;
use crate::engine::state::keys::{RouteKey, ifname, peer_key};
use crate::engine::state::unfollowed::{Noted, Unfollowed};
use crate::net::hosts::{HOST_PREFIX, HostChange, HostRoute, Path};
use crate::net::links::Address;
use crate::reason::{PassedOver, Reason};
use crate::settings::address::no_host;
use crate::settings::protocol_name;

/// Whether a route can be followed, by what the route itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// It is followed.
    Followed,
    /// It meets the conditions of `--follow`, and cannot be followed for this reason.
    Unfit(PassedOver),
    /// It is no concern of ours: it does not meet the conditions, or is by other interfaces.
    Others,
}

impl<H: Hands> Engine<H> {
    /// Applies a notification of a route, and has the peers settled that it concerns.
    pub(crate) fn host_route_changed(&mut self, change: &HostChange) {
        let route = &change.route;
        let fit = self.fit(route);
        let why = match fit {
            Fit::Unfit(why) => Some(why),
            Fit::Followed | Fit::Others => None,
        };
        let noted = self.wants.followed_mut().note_unfollowed(change, why);
        if let (Noted::New, Some(why)) = (noted, why) {
            say_unfollowed(route, why);
        }
        if noted != Noted::Nothing {
            self.show_unfollowed();
        }
        if route.prefix_len != HOST_PREFIX {
            return;
        }
        let tracked = fit == Fit::Followed;
        for key in self.wants.followed_mut().apply(change, tracked) {
            let Some(interface) = self.interfaces.with_index(key.ifindex) else {
                continue;
            };
            let peer = peer_key(interface.name(), key.dst);
            self.settle_soon([peer]);
        }
    }

    /// Says whether a route can be followed.
    fn fit(&self, route: &HostRoute) -> Fit {
        let mut interfaces = route.interfaces.iter();
        let served =
            |ifindex: &u32| *ifindex != 0 && self.interfaces.with_index(*ifindex).is_some();
        let here = route.leads_nowhere() || interfaces.any(served);
        if !here || !self.wants.followed().matches(route) {
            return Fit::Others;
        }
        self.fit_here(route)
    }

    /// Says whether a route can be followed that meets the conditions and is by a served interface or by none.
    fn fit_here(&self, route: &HostRoute) -> Fit {
        if let Some(why) = route.unfit {
            return Fit::Unfit(why);
        }
        if !is_host(route.dst) {
            return Fit::Unfit(PassedOver::NotAHost);
        }
        let path = route.path.as_ref();
        let by = path.and_then(|path| Some((path, self.interfaces.with_index(path.ifindex)?)));
        let Some((path, interface)) = by else {
            return Fit::Others;
        };
        let local = path.src.unwrap_or(Ipv4Addr::UNSPECIFIED);
        match self.interfaces.no_peer(interface, route.dst, local) {
            Some(_) => Fit::Unfit(PassedOver::NoPeer),
            None => Fit::Followed,
        }
    }

    fn show_unfollowed(&self) {
        let counts = self.wants.followed().unfollowed();
        self.shared.unfollowed().clone_from(counts);
    }

    /// Reads the followed routes. Returns why that failed, if it did; then nobody knows what the routes want.
    pub(crate) async fn read_followed(&mut self) -> Option<anyhow::Error> {
        if !self.wants.followed().is_on() {
            return None;
        }
        let routes = match self.list_followed().await {
            Ok(routes) => routes,
            Err(error) => {
                self.wants.followed_mut().doubt();
                return Some(error);
            }
        };
        let (mut followed, mut unfollowed) = (Vec::new(), Unfollowed::default());
        for route in routes {
            // Not `fit`: the kernel has listed the route by an interface of ours or by none, also if the
            // message names a next hop object in place of the interface.
            match self.fit_here(&route) {
                _ if !self.wants.followed().matches(&route) => {}
                Fit::Followed => followed.push(route),
                Fit::Unfit(why) => {
                    let known = self.wants.followed().is_unfollowed(&route, why);
                    if unfollowed.insert(&route, why) && !known {
                        say_unfollowed(&route, why);
                    }
                }
                Fit::Others => {}
            }
        }
        let left_out = self.wants.followed_mut().replace(followed, unfollowed);
        if left_out > 0 {
            warn!(left_out, "more routes to follow than can be kept in mind");
        }
        self.show_unfollowed();
        None
    }

    /// Lists the routes by our interfaces that meet the conditions. Routes by no interface are listed only if
    /// notifications have not kept them current, for the kernel walks through its whole table to find them.
    async fn list_followed(&self) -> anyhow::Result<Vec<HostRoute>> {
        let mut routes = Vec::new();
        for follow in self.wants.followed().dumps() {
            let reading = || format!("followed routes ({follow})");
            for ifindex in self.interfaces.indices() {
                let found = self.hands.host_routes(ifindex, &follow).await;
                routes.extend(found.with_context(reading)?);
            }
            if !self.wants.followed().is_known() {
                let found = self.hands.host_routes_nowhere(&follow).await;
                routes.extend(found.with_context(reading)?);
            }
        }
        Ok(routes)
    }

    /// Returns the peer that the followed routes ask for.
    pub(crate) fn followed_peer(&self, key: &PeerKey) -> Says {
        if !self.wants.followed().is_known() {
            return Says::Unknown;
        }
        let Some(interface) = self.interfaces.named(ifname(key)) else {
            return Says::Nothing;
        };
        let Some(ifindex) = interface.ifindex() else {
            return Says::Nothing;
        };
        let dst = Ipv4Addr::from(key.peer);
        let best = self.wants.followed().best(RouteKey { ifindex, dst });
        let Some((route, path)) = best.and_then(|route| Some((*route, route.path?))) else {
            return Says::Nothing;
        };
        let local = source(&path, interface.addresses());
        // Where the interface has no address the kernel takes one of another interface: the tunnel's outer
        // address is one.
        let outer = || interface.ends()?.tunnel.local;
        let local = local
            .or_else(|| outer().filter(|outer| self.interfaces.host_addresses().is_held(*outer)));
        let Some(local) = local.filter(|local| *local != dst && !local.is_loopback()) else {
            return Says::NoSource(route);
        };
        let peer = Peer {
            local: local.octets(),
            via: path
                .via
                .filter(|via| *via != dst)
                .map_or([0; 4], |via| via.octets()),
            timers: self.wants.policy().timers(dst, self.options.timers()),
            origin: Origin::Follow,
            left_out: 0,
            reserved: [0; 2],
        };
        Says::Peer(peer, route)
    }
}

/// Logs that a route is not followed, and why.
pub(crate) fn say_unfollowed(route: &HostRoute, why: PassedOver) {
    let (dst, prefix_len) = (route.dst, route.prefix_len);
    let (table, protocol) = (route.table, protocol_name(route.protocol));
    info!(%dst, prefix_len, table, protocol, reason = why.label(), "route not followed: {}", why.text());
}

/// Says whether an address can be a host's, as for peers that are named in requests.
const fn is_host(dst: Ipv4Addr) -> bool {
    no_host(dst).is_none()
}

/// Returns the source address of packets that this host sends over a route: the one that the route names,
/// else the one that the kernel chooses (`fib_info_update_nhc_saddr`, `inet_select_addr`): of the interface's
/// primary addresses whose scope is no narrower than the route's, the first whose subnet the gateway is in,
/// else the first. None if the interface has no such address.
fn source(path: &Path, addresses: &[Address]) -> Option<Ipv4Addr> {
    if path.src.is_some() {
        return path.src;
    }
    let eligible = |address: &&Address| !address.secondary && address.scope <= path.scope;
    let mut addresses = addresses.iter().filter(eligible);
    let beside = path
        .via
        .and_then(|via| addresses.clone().find(|a| is_in_subnet(a, via)));
    beside
        .or_else(|| addresses.next())
        .map(|address| address.local)
}

/// Says whether an address is in the subnet of another one, as `inet_ifa_match` does: a point-to-point
/// address has the subnet of its other end.
fn is_in_subnet(address: &Address, other: Ipv4Addr) -> bool {
    let ours = address.peer.unwrap_or(address.local);
    let host_bits = u32::MAX.checked_shr(address.prefix_len.into()).unwrap_or(0);
    (u32::from(ours) ^ u32::from(other)) & !host_bits == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIVERSE: u8 = 0;
    const LINK: u8 = 253;

    fn address(local: [u8; 4], prefix_len: u8) -> Address {
        Address::plain(local.into(), prefix_len)
    }

    fn path(via: Option<[u8; 4]>) -> Path {
        Path {
            ifindex: 7,
            src: None,
            via: via.map(Ipv4Addr::from),
            scope: if via.is_some() { UNIVERSE } else { LINK },
        }
    }

    #[test]
    fn the_kernels_choice_of_a_source() {
        let link = Address {
            scope: LINK,
            ..address([169, 254, 0, 0], 31)
        };
        let secondary = Address {
            secondary: true,
            ..address([10, 1, 0, 9], 24)
        };
        let far = Address {
            peer: Some([10, 9, 0, 1].into()),
            ..address([10, 2, 0, 1], 32)
        };
        let addresses = [
            link,
            secondary,
            address([10, 0, 0, 1], 32),
            address([10, 1, 0, 1], 24),
            far,
        ];
        let chosen = |path: Path| source(&path, &addresses).map(|found| found.octets());
        let named = Some(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(
            chosen(Path {
                src: named,
                ..path(None)
            }),
            Some([192, 0, 2, 1])
        );
        assert_eq!(chosen(path(None)), Some([169, 254, 0, 0]), "the first");
        assert_eq!(
            chosen(path(Some([10, 1, 0, 2]))),
            Some([10, 1, 0, 1]),
            "the gateway's subnet"
        );
        assert_eq!(
            chosen(path(Some([10, 9, 0, 1]))),
            Some([10, 2, 0, 1]),
            "the other end"
        );
        assert_eq!(
            chosen(path(Some([10, 7, 0, 1]))),
            Some([10, 0, 0, 1]),
            "none has it: the first"
        );
        assert_eq!(source(&path(None), &[secondary]), None);
    }
}
