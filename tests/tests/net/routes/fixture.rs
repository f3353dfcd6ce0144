//! Two interfaces, and what the agent's functions do with routes there.

use std::net::Ipv4Addr;

use anyhow::Result;
use dz_agent::net::Netlink;
use dz_agent::net::routes::{Added, DEFAULT_PROTOCOL, Deleted, Foreign, Route, RouteError, Routes};
use dz_tests::netns::Netns;

pub(super) const DST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(super) const SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const OTHER_SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

/// Two interfaces, `v0` with two addresses and `v1`.
pub(super) struct Fixture {
    pub(super) netns: Netns,
    pub(super) v0: u32,
    pub(super) v1: u32,
}

impl Fixture {
    pub(super) fn new() -> Result<Self> {
        let netns = Netns::new("routes")?;
        netns.ip("link add v0 type veth peer name v1")?;
        netns.ip("address add 10.0.0.1/31 dev v0")?;
        netns.ip("address add 10.0.0.3/32 dev v0")?;
        netns.ip("link set v0 up")?;
        netns.ip("link set v1 up")?;
        let (v0, v1) = (netns.ifindex("v0")?, netns.ifindex("v1")?);
        Ok(Self { netns, v0, v1 })
    }

    pub(super) const fn route(&self) -> Route {
        Route {
            dst: DST,
            ifindex: self.v0,
            src: Some(SRC),
            via: None,
        }
    }

    pub(super) fn with<T: Send, F: Future<Output = T>>(
        &self,
        f: impl FnOnce(Routes) -> F + Send,
    ) -> T {
        self.netns.block_on(|| {
            f(Routes::new(
                Netlink::open().expect("a netlink socket"),
                DEFAULT_PROTOCOL,
            ))
        })
    }

    pub(super) fn add(&self, route: Route) -> Result<Added, RouteError> {
        self.with(|routes| async move { routes.add(&route).await })
    }

    pub(super) fn delete(&self, ifindex: u32) -> Result<Deleted, RouteError> {
        self.with(|routes| async move { routes.delete(DST, ifindex).await })
    }

    pub(super) fn list(&self, ifindex: Option<u32>) -> Result<Vec<Route>, RouteError> {
        self.with(|routes| async move { routes.list(ifindex).await })
    }

    pub(super) fn foreign(&self) -> Result<Option<Foreign>, RouteError> {
        self.with(|routes| async move { routes.foreign(DST).await })
    }

    /// What `ip route` shows for the destination.
    pub(super) fn shown(&self) -> Result<String> {
        Ok(self
            .netns
            .ip("route show to exact 198.51.100.7")?
            .trim()
            .to_owned())
    }
}
