//! Two hosts: a tunnel, `doublezero0`, over which BGP announces addresses, and an underlay that leads to
//! the same addresses by a shorter prefix.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_tests::bed::{HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::bird::{Bird, PROTOCOL, Speaker};
use dz_tests::netns::Netns;
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;

/// The underlay's interface.
pub(crate) const UNDER: &str = "under0";
const UNDER_HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const UNDER_THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// What the tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A veth pair.
    Veth,
    /// GRE over the underlay.
    Gre,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Veth, Self::Gre];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Gre => "gre",
        }
    }
}

/// What holds the addresses that BGP announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The tunnel: they are allocated.
    Tunnel,
    /// The underlay's interface: they are public ones (plain IBRL), and the tunnel has its link only.
    Underlay,
}

/// One of the two.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    /// Its end of the tunnel.
    pub(crate) link: Ipv4Addr,
    /// Its address on the underlay.
    pub(crate) under: Ipv4Addr,
    /// Its addresses that it announces. The route to the other host's address of a
    /// number has ours of that number as its source, so that each pair is a session.
    pub(crate) addresses: Vec<Ipv4Addr>,
}

/// Both, and what is between them.
pub(crate) struct Hosts {
    kind: Kind,
    holder: Holder,
    pub(crate) here: Host,
    pub(crate) there: Host,
}

impl Hosts {
    /// With so many allocated addresses each.
    pub(crate) fn new(kind: Kind, addresses: u16) -> Result<Self> {
        Self::with(kind, addresses, Holder::Tunnel)
    }

    /// With so many addresses each, wherever they are.
    pub(crate) fn with(kind: Kind, addresses: u16, holder: Holder) -> Result<Self> {
        let host = |label, network, link, under| -> Result<Host> {
            let netns = Netns::new(label)?;
            for name in ["all", "default"] {
                // What takes the underlay comes in by another interface than answers leave by.
                netns.command(&format!("sysctl -qw net.ipv4.conf.{name}.rp_filter=0"))?;
            }
            let address = |number: u16| {
                let [high, low] = (number + 1).to_be_bytes();
                Ipv4Addr::new(10, network, high, low)
            };
            Ok(Host {
                netns,
                link,
                under,
                addresses: (0..addresses).map(address).collect(),
            })
        };
        let hosts = Self {
            kind,
            holder,
            here: host("bird", 1, HERE, UNDER_HERE)?,
            there: host("bird-far", 2, THERE, UNDER_THERE)?,
        };
        hosts.underlay()?;
        hosts.tunnel()?;
        for (host, _) in hosts.both() {
            match holder {
                Holder::Tunnel => {}
                Holder::Underlay => host.hold(UNDER)?,
            }
        }
        Ok(hosts)
    }

    /// Each host with the other one.
    pub(crate) fn both(&self) -> [(&Host, &Host); 2] {
        [(&self.here, &self.there), (&self.there, &self.here)]
    }

    fn underlay(&self) -> Result<()> {
        let (a, b) = (format!("{UNDER_HERE}/30"), format!("{UNDER_THERE}/30"));
        let (here, there) = (&self.here.netns, &self.there.netns);
        veth::pair(&End::new(here, UNDER, &a), &End::new(there, UNDER, &b))?;
        for (host, far) in self.both() {
            let [first, second, ..] = far.addresses[0].octets();
            let under = far.under;
            let route = format!("route add {first}.{second}.0.0/16 via {under} dev {UNDER}");
            host.netns.ip(&route)?;
        }
        Ok(())
    }

    /// Deletes the tunnel at both ends, links first taken down, and makes another one.
    pub(crate) fn tunnel_anew(&self) -> Result<()> {
        for (host, _) in self.both() {
            host.netns.ip(&format!("link set {INTERFACE} down"))?;
        }
        self.here.netns.ip(&format!("link delete {INTERFACE}"))?;
        if self.kind == Kind::Gre {
            self.there.netns.ip(&format!("link delete {INTERFACE}"))?;
        }
        self.tunnel()
    }

    fn tunnel(&self) -> Result<()> {
        let (a, b) = (format!("{HERE}/31"), format!("{THERE}/31"));
        match self.kind {
            Kind::Veth => veth::pair(
                &End::new(&self.here.netns, INTERFACE, &a),
                &End::new(&self.there.netns, INTERFACE, &b),
            )?,
            Kind::Gre => {
                for (host, far) in self.both() {
                    let (local, remote, link) = (host.under, far.under, host.link);
                    for line in [
                        format!(
                            "link add {INTERFACE} type gre local {local} remote {remote} ttl 64"
                        ),
                        format!("link set {INTERFACE} mtu 1476 addrgenmode none"),
                        format!("address add {link}/31 dev {INTERFACE}"),
                        format!("link set {INTERFACE} up"),
                    ] {
                        host.netns.ip(&line)?;
                    }
                }
            }
        }
        for (host, _) in self.both() {
            match self.holder {
                Holder::Tunnel => host.hold(INTERFACE)?,
                Holder::Underlay => {}
            }
        }
        Ok(())
    }
}

impl Host {
    /// Gives its addresses to an interface.
    fn hold(&self, interface: &str) -> Result<()> {
        for address in &self.addresses {
            let line = format!("address add {address}/32 dev {interface}");
            self.netns.ip(&line)?;
        }
        Ok(())
    }

    /// Its BIRD, which learns the other host's addresses.
    pub(crate) fn bird(&self, far: &Self) -> Result<Bird> {
        let learns = far.addresses.iter().zip(&self.addresses);
        let speaker = Speaker {
            local: self.link,
            neighbour: far.link,
            announces: self.addresses.clone(),
            learns: learns.map(|(dst, src)| (*dst, *src)).collect(),
        };
        Bird::start(&self.netns, &speaker)
    }

    /// BIRD's routes in the kernel's table, as `ip` shows them.
    pub(crate) fn routes(&self) -> Result<Vec<String>> {
        let shown = self.netns.ip(&format!("route show proto {PROTOCOL}"))?;
        let mut lines: Vec<_> = shown.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        Ok(lines)
    }

    /// Waits until it has routes to these numbers of the other host's addresses, and to no others.
    pub(crate) fn until_routes(&self, far: &Self, numbers: &[usize]) -> Result<()> {
        let route = |number: &usize| {
            let (dst, src) = (far.addresses[*number], self.addresses[*number]);
            format!("{dst} via {} dev {INTERFACE} src {src} metric 32", far.link)
        };
        let mut expected: Vec<_> = numbers.iter().map(route).collect();
        expected.sort();
        eventually(PATIENCE, &format!("routes to {numbers:?}"), || {
            let routes = self.routes()?;
            ensure!(routes == expected, "{routes:#?}");
            anyhow::Ok(())
        })
    }
}
