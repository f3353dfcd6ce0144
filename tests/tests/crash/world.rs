//! What an agent lives in: an interface whose addresses and link come and go, far peers that are
//! there, others that never answer, and other people's routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use dz_common::session::{Mode, Timers};
use dz_tests::bed::INTERFACE;
use dz_tests::netns::Netns;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::wire::TunWire;
use serde_json::Value;

/// How often each side sends.
pub(crate) const INTERVAL_MS: u32 = 100;
/// Silence of three seconds makes a peer Down. Nothing here waits for that but a goodbye that got
/// lost; it is long because a machine that starts several agents at once, each of which keeps the
/// verifier busy for some tenths of a second, must not make sessions flap that nobody touched: a
/// flap is then the agent's or the kernel programs' doing.
pub(crate) const DETECT_MULT: u8 = 30;
/// Far peers that answer.
const FARS: u8 = 12;
/// Addresses at which nobody answers: they make batches long enough to be hit in the middle.
const GHOSTS: u8 = 120;
/// Our end of the wire; never removed.
const HERE: &str = "169.254.7.0/31";
/// Gateway of routes that have one.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 1);
/// The addresses that sessions are kept from.
pub(crate) const LOCALS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 98, 0, 1),
    Ipv4Addr::new(10, 98, 0, 2),
    Ipv4Addr::new(10, 98, 0, 3),
];
/// A device of somebody else's.
const OTHER: &str = "other0";
/// Protocol number of other people's routes: BIRD's.
const FOREIGN: &str = "186";

/// A route of ours as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OurRoute {
    pub(crate) src: Option<Ipv4Addr>,
    pub(crate) via: Option<Ipv4Addr>,
    pub(crate) dev: String,
    pub(crate) metric: u64,
}

/// The scene.
pub(crate) struct World {
    pub(crate) here: Netns,
    pub(crate) there: Netns,
    wire: Option<TunWire>,
    pub(crate) fars: BTreeMap<Ipv4Addr, UdpPeer>,
    /// Sessions that their far end has put in AdminDown.
    pub(crate) refused: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    held: BTreeSet<Ipv4Addr>,
    up: bool,
    /// Where other people's routes are, address and metric or table, and by what device: the
    /// kernel has room for one in each place.
    foreign: BTreeMap<String, &'static str>,
    _other: Tun,
}

impl World {
    pub(crate) fn new(label: &str) -> Result<Self> {
        let (here, there) = (Netns::new(label)?, Netns::new(label)?);
        let other = Tun::new(&here, OTHER, &["10.95.0.1/24"])?;
        let mut fars = BTreeMap::new();
        for number in 1..=FARS {
            let address = far(number);
            there.ip(&format!("address add {address}/32 dev lo"))?;
            let timers = Timers {
                desired_min_tx_us: INTERVAL_MS * 1_000,
                required_min_rx_us: INTERVAL_MS * 1_000,
                detect_mult: DETECT_MULT,
                // So that nobody is waited for because it has been alone for long.
                backoff_cap_us: 400_000,
                mode: if number % 4 == 0 {
                    Mode::Passive
                } else {
                    Mode::Active
                },
                ..Timers::DEFAULT
            };
            let config = UdpPeerConfig {
                timers,
                ..UdpPeerConfig::new(address)
            };
            let peer = there.run(|| UdpPeer::spawn(config)).context("UDP peer")?;
            for local in LOCALS {
                peer.add_session(local);
            }
            fars.insert(address, peer);
        }
        let mut world = Self {
            here,
            there,
            wire: None,
            fars,
            refused: BTreeSet::new(),
            held: LOCALS.into(),
            up: true,
            foreign: BTreeMap::new(),
            _other: other,
        };
        world.create_interface()?;
        Ok(world)
    }

    /// Every address that one may connect to: those that answer first.
    pub(crate) fn addresses() -> impl Iterator<Item = Ipv4Addr> {
        let ghosts = (1..=GHOSTS).map(|number| Ipv4Addr::new(10, 97, 0, number));
        (1..=FARS).map(far).chain(ghosts)
    }

    pub(crate) fn is_far(address: Ipv4Addr) -> bool {
        address.octets()[1] == 99
    }

    pub(crate) const fn has_interface(&self) -> bool {
        self.wire.is_some()
    }

    pub(crate) fn held(&self) -> &BTreeSet<Ipv4Addr> {
        &self.held
    }

    /// Whether sessions can run from an address.
    pub(crate) fn carries(&self, local: Ipv4Addr) -> bool {
        self.has_interface() && self.up && self.held.contains(&local)
    }

    pub(crate) fn ifindex(&self) -> Result<u32> {
        self.here.ifindex(INTERFACE)
    }

    pub(crate) fn create_interface(&mut self) -> Result<()> {
        if self.wire.is_some() {
            return Ok(());
        }
        let mut addresses = vec![HERE.to_owned()];
        addresses.extend(self.held.iter().map(|local| format!("{local}/32")));
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        // The far end first: it must not miss what we say first.
        let there = Tun::new(&self.there, INTERFACE, &[])?;
        self.there
            .ip(&format!("route add 10.98.0.0/24 dev {INTERFACE}"))?;
        let here = Tun::new(&self.here, INTERFACE, &addresses)?;
        self.wire = Some(TunWire::connect(here, there, std::time::Duration::ZERO)?);
        self.up = true;
        Ok(())
    }

    pub(crate) fn delete_interface(&mut self) {
        self.wire = None;
        self.forget_foreign_on_interface();
    }

    /// Whether that changed anything.
    pub(crate) fn set_up(&mut self, up: bool) -> Result<bool> {
        if !self.has_interface() || self.up == up {
            return Ok(false);
        }
        let word = if up { "up" } else { "down" };
        self.here.ip(&format!("link set {INTERFACE} {word}"))?;
        self.up = up;
        if !up {
            self.forget_foreign_on_interface();
        }
        Ok(true)
    }

    pub(crate) fn hold(&mut self, local: Ipv4Addr, hold: bool) -> Result<()> {
        if self.held.contains(&local) == hold {
            return Ok(());
        }
        if self.has_interface() {
            let word = if hold { "add" } else { "delete" };
            self.here
                .ip(&format!("address {word} {local}/32 dev {INTERFACE}"))?;
        }
        if hold {
            self.held.insert(local);
        } else {
            self.held.remove(&local);
        }
        Ok(())
    }

    /// Has the far end refuse a session, or take it again.
    pub(crate) fn refuse(&mut self, peer: Ipv4Addr, local: Ipv4Addr, refuse: bool) {
        let Some(far) = self.fars.get(&peer) else {
            return;
        };
        if refuse && self.refused.insert((peer, local)) {
            far.admin_down(local);
        } else if !refuse && self.refused.remove(&(peer, local)) {
            far.admin_up(local);
        }
    }

    /// Puts everything back that a round may have taken.
    pub(crate) fn restore(&mut self) -> Result<()> {
        self.create_interface()?;
        self.set_up(true)?;
        for local in LOCALS {
            self.hold(local, true)?;
        }
        for (peer, local) in self.refused.clone() {
            self.refuse(peer, local, false);
        }
        Ok(())
    }

    /// Adds somebody else's route to an address, in another table or with another metric than ours;
    /// where one is, it is removed. Says what was done.
    pub(crate) fn foreign(&mut self, address: Ipv4Addr, draw: u64) -> Result<String> {
        let place = match draw >> 1 & 1 {
            0 => format!("{address} metric {}", 5 + (draw >> 2) % 3),
            _ => format!("{address} table {}", 77 + (draw >> 2) % 2),
        };
        let (word, dev) = match self.foreign.remove(&place) {
            Some(dev) => ("delete", dev),
            None => {
                let ours = draw & 1 == 1 && self.has_interface() && self.up;
                let dev = if ours { INTERFACE } else { OTHER };
                self.foreign.insert(place.clone(), dev);
                ("add", dev)
            }
        };
        let line = format!("route {word} {place} dev {dev} proto {FOREIGN}");
        self.here.ip(&line)?;
        Ok(line)
    }

    /// The kernel takes the routes of an interface with it.
    fn forget_foreign_on_interface(&mut self) {
        self.foreign.retain(|_, dev| *dev != INTERFACE);
    }

    /// How many routes of other people there should be, and how many there are.
    pub(crate) fn foreign_routes(&self) -> Result<(usize, usize)> {
        let shown = self
            .here
            .ip(&format!("route show table all proto {FOREIGN}"))?;
        Ok((self.foreign.len(), shown.lines().count()))
    }

    /// Every route under our number, in whatever table. Two to one address are an error.
    pub(crate) fn our_routes(&self) -> Result<BTreeMap<Ipv4Addr, OurRoute>> {
        let shown = self.here.ip("-j route show table all proto 144")?;
        let mut routes = BTreeMap::new();
        let Value::Array(shown) = serde_json::from_str(&shown)? else {
            anyhow::bail!("not a list: {shown}");
        };
        for route in shown {
            let address = |field: &str| route[field].as_str().and_then(|text| text.parse().ok());
            let dst = address("dst").with_context(|| format!("{route}"))?;
            let ours = OurRoute {
                src: address("prefsrc"),
                via: address("gateway"),
                dev: route["dev"].as_str().unwrap_or_default().to_owned(),
                metric: route["metric"].as_u64().unwrap_or(0),
            };
            let earlier = routes.insert(dst, ours);
            anyhow::ensure!(
                earlier.is_none(),
                "two routes of ours to {dst}: {earlier:?}"
            );
        }
        Ok(routes)
    }
}

fn far(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}
