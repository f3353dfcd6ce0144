//! The real kernel: a namespace, and the functions of the agent that read and change it.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use dz_agent::memory::net::{Entry, Kind, Mode, Net, Shape, Which};
use dz_agent::net::Netlink;
use dz_agent::net::links::{self, Address, Tunnel};
use dz_agent::net::monitor::{Event, Monitor};
use dz_agent::net::routes::{Route, Routes};
use dz_tests::harness::Requirement;
use dz_tests::netns::Netns;
use dz_tests::rtnl::Table;
use nix::errno::Errno;

use crate::operation::OURS;
use crate::requests::{self, Request};

/// The table in which a route comes and goes to mark the end of an operation's notifications.
const MARKS: u32 = 77;
const MARK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// So long the kernel waits for a neighbour before it asks again, ms: longer than a test.
const PATIENCE_MS: &str = "1000000";

/// A namespace with all that is open in it.
pub(crate) struct Kernel<'a> {
    here: &'a Netns,
    far: &'a Netns,
    pub(crate) netlink: Netlink,
    pub(crate) routes: Routes,
    monitor: Monitor,
    table: Table,
    made: u32,
    /// By the kernel.
    said: Said,
    /// By the kernel in memory.
    pub(crate) told: Said,
}

/// What was said last of each link. The kernel repeats it, for instance when it notices the carrier.
#[derive(Default)]
pub(crate) struct Said(BTreeMap<u32, Event>);

impl Said {
    /// Takes note of an event; returns whether it says of a link what was said last.
    pub(crate) fn repeats(&mut self, event: &Event) -> bool {
        let Event::Link { ifindex, .. } = event else {
            return false;
        };
        self.0.insert(*ifindex, event.clone()).as_ref() == Some(event)
    }
}

impl<'a> Kernel<'a> {
    /// Opens what is needed, in a namespace that the thread is in, and makes a namespace in memory that is
    /// like it.
    pub(crate) async fn open(here: &'a Netns, far: &'a Netns) -> Result<(Self, Net)> {
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
        for scope in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv4/conf/{scope}/promote_secondaries");
            fs::write(path, "0")?;
        }
        let netlink = Netlink::open()?;
        let monitor = Monitor::open()?;
        monitor.leave_out([netlink.port(); 2])?;
        let mut kernel = Self {
            here,
            far,
            routes: Routes::new(netlink.clone(), OURS),
            netlink,
            monitor,
            table: Table::open(here)?,
            made: 0,
            said: Said::default(),
            told: Said::default(),
        };
        kernel.monitor.tell_of_hosts();
        // The kernel may have made links of its own (`gre0`), which have taken indices.
        let (first, shape) = kernel.create("t0").await?;
        let mut net = Net::new(kernel.tells_of_sources(first).await?);
        while net.create_link("t0", shape.clone())? != first {
            net.delete_link(net.ifindex("t0").context("just made")?)?;
        }
        kernel.request(&requests::delete_link(first))??;
        net.delete_link(first)?;
        kernel.events().await?;
        net.subscribe(true, 1_000);
        Ok((kernel, net))
    }

    /// Tries whether the kernel tells of a route that it flushes because its source address goes: it does since
    /// Linux 6.7, and in stable versions before that have the change, too.
    async fn tells_of_sources(&mut self, ifindex: u32) -> Result<bool> {
        let [source, other, dst] = [1, 2, 9].map(|last| Ipv4Addr::new(10, 9, 9, last));
        self.request(&requests::set_up(ifindex, true))??;
        for local in [source, other] {
            self.request(&requests::address(
                ifindex,
                &Address::plain(local, 32),
                true,
            ))??;
        }
        let route = Route {
            dst,
            ifindex,
            src: Some(source),
            via: None,
        };
        self.routes.add(&route).await?;
        self.events().await?;
        self.request(&requests::address(
            ifindex,
            &Address::plain(source, 32),
            false,
        ))??;
        let events = self.events().await?;
        let tells = |event: &Event| matches!(event, Event::Route { dst: gone, .. } if *gone == dst);
        Ok(events.iter().any(tells))
    }

    /// Makes a link, and describes it for the kernel in memory.
    pub(crate) async fn create(&mut self, name: &str) -> Result<(u32, Shape)> {
        self.made += 1;
        match name.starts_with('v') {
            true => {
                let (far, peer) = (self.far.name(), format!("p{}", self.made));
                self.here.ip(&format!(
                    "link add {name} type veth peer name {peer} netns {far}"
                ))?;
                self.far.ip(&format!("link set {peer} up"))?;
                let path = format!("/proc/sys/net/ipv4/neigh/{name}/retrans_time_ms");
                fs::write(path, PATIENCE_MS)?;
            }
            false if Requirement::LinkKind("gre").missing().is_none() => {
                let [local, remote] =
                    [0, 1].map(|last| Ipv4Addr::new(100, 64, self.made as u8, last));
                self.here.ip(&format!(
                    "link add {name} type gre local {local} remote {remote}"
                ))?;
            }
            false => {
                self.here.ip(&format!("tuntap add {name} mode tun"))?;
            }
        }
        let made = links::by_name(&self.netlink, name).await?;
        let made = made.with_context(|| format!("{name} was just made"))?;
        let shape = match made.mac {
            Some(mac) => Shape::nic(mac),
            None => Shape::gre(Tunnel {
                remote: Some(Ipv4Addr::LOCALHOST),
                ..Tunnel::default()
            }),
        };
        let shape = Shape {
            kind: made.kind,
            mtu: made.mtu,
            tunnel: made.tunnel,
            ..shape
        };
        Ok((made.ifindex, shape))
    }

    /// Asks the kernel for a change, as somebody else.
    pub(crate) fn request(&mut self, request: &Request) -> Result<Result<(), Errno>> {
        let (kind, flags, body) = request;
        self.table.request(*kind, *flags, body)
    }

    /// Reads all notifications of what has been done so far. A mark follows them.
    pub(crate) async fn events(&mut self) -> Result<Vec<Event>> {
        let mark = Entry {
            table: MARKS,
            dst: MARK,
            prefix_len: 32,
            tos: 0,
            metric: 0,
            protocol: 99,
            scope: 0,
            kind: Kind::Blackhole,
            ifindex: None,
            src: None,
            via: None,
        };
        let which = Which::to(MARKS, MARK, 32);
        self.request(&requests::add(&mark, Mode::Exclusive))??;
        self.request(&requests::delete(&which))??;
        let mut events = Vec::new();
        loop {
            let event = self.monitor.next().await?;
            match event {
                Event::Host(change) if change.route.table == MARKS => {
                    if change.gone {
                        return Ok(events);
                    }
                }
                Event::Overrun => bail!("notifications were lost"),
                event if self.said.repeats(&event) => {}
                event => events.push(event),
            }
        }
    }
}
