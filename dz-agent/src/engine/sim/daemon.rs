//! The other routing daemon of a node: its routes, which the agent follows, come, change and go.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use fastrand::Rng;

use crate::memory::net::{Entry, Kind, MAIN, Mode, Net};
use crate::net::routes::DEFAULT_PROTOCOL;

/// What the agents of nodes with such a daemon are told to follow.
pub(super) const CONDITIONS: [&str; 4] = ["--follow", "proto=bgp", "--follow", "table=200"];
/// The `rtm_protocol` of its routes in the main table.
pub(super) const BGP: u8 = 186;
/// The `rtm_protocol` of its routes in the other table.
pub(super) const STATIC: u8 = 4;
/// The other table that is followed.
const OTHER: u32 = 200;
/// The gateways of its routes.
pub(super) const GATEWAYS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(192, 0, 2, 252), Ipv4Addr::new(192, 0, 2, 253)];

/// A place in a table: a route of the first is taken before one of the second and the third, and one of the
/// last before all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// In the main table.
    First,
    /// In the main table, with a worse metric.
    Second,
    /// In the other table, with a worse metric.
    Third,
    /// In the other table, whose number is lower.
    Before,
}

impl Slot {
    pub(super) const fn table(self) -> u32 {
        match self {
            Self::First | Self::Second => MAIN,
            Self::Third | Self::Before => OTHER,
        }
    }

    pub(super) const fn metric(self) -> u32 {
        match self {
            Self::First | Self::Before => 0,
            Self::Second | Self::Third => 20,
        }
    }

    pub(super) const fn protocol(self) -> u8 {
        match self {
            Self::First | Self::Second => BGP,
            Self::Third | Self::Before => STATIC,
        }
    }
}

/// How a route leads to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// By the tunnel, from the DoubleZero address.
    Plain,
    /// The same with a gateway, one of two.
    Via(u8),
    /// By the tunnel, from the address that the tunnel starts from.
    Outer,
    /// By the tunnel, from whatever address the kernel takes.
    Unsaid,
    /// By the NIC, which is not served.
    Elsewhere,
    /// Nowhere.
    Blackhole,
}

/// What the daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A route to another node comes.
    Put(usize, Slot, Manner, Mode),
    /// One goes.
    Take(usize, Slot),
    /// All go that lead to another node; it means to put them back.
    Suspend(usize),
    /// All go; it means to put them back.
    SuspendAll,
    /// What it means to have and is missing comes back.
    Back,
}

impl Deed {
    /// The route to another node comes that makes a peer of it.
    pub(super) const fn plain(other: usize) -> Self {
        Self::Put(other, Slot::First, Manner::Plain, Mode::Replace)
    }

    /// Draws one that ends no session of a peer that a plain route in the first place makes. `beside`: packets
    /// have a next hop, so that another gateway does.
    pub(super) fn harmless(rng: &mut Rng, other: usize, beside: bool) -> Self {
        let slot = *rng.choice(&[Slot::Second, Slot::Third]).expect("two");
        match rng.u8(..4) {
            0 => Self::Take(other, slot),
            1 => Self::Put(other, slot, manner(rng), mode(rng)),
            2 if !beside => Self::Put(other, Slot::First, Manner::Via(rng.u8(..2)), Mode::Replace),
            _ => Self::Put(other, Slot::First, Manner::Plain, Mode::Replace),
        }
    }

    /// Draws any.
    pub(super) fn any(rng: &mut Rng, other: usize) -> Self {
        let slots = [
            Slot::First,
            Slot::First,
            Slot::Second,
            Slot::Third,
            Slot::Before,
        ];
        let slot = *rng.choice(&slots).expect("five");
        match rng.u8(..5) {
            0 | 1 => Self::Take(other, slot),
            _ => Self::Put(other, slot, manner(rng), mode(rng)),
        }
    }
}

fn manner(rng: &mut Rng) -> Manner {
    match rng.u8(..8) {
        0 | 1 => Manner::Via(rng.u8(..2)),
        2 => Manner::Outer,
        3 => Manner::Unsaid,
        4 => Manner::Elsewhere,
        5 => Manner::Blackhole,
        _ => Manner::Plain,
    }
}

fn mode(rng: &mut Rng) -> Mode {
    match rng.u8(..4) {
        0 => Mode::Append,
        1 => Mode::Prepend,
        _ => Mode::Replace,
    }
}

/// What the daemon of a node means to have, in the order of each place.
#[derive(Default)]
pub(super) struct Daemon {
    pub(super) routes: BTreeMap<(usize, Slot), Vec<Manner>>,
    /// When a route to a node was changed last, ns.
    pub(super) touched_ns: BTreeMap<usize, u64>,
}

impl Daemon {
    /// Returns to which nodes it means to have routes.
    pub(super) fn means(&self) -> impl Iterator<Item = usize> {
        self.routes.keys().map(|(other, _)| *other)
    }

    /// Says whether it means to have a route to a node, or has changed one since a time.
    pub(super) fn wants(&self, other: usize, since_ns: u64) -> bool {
        let at_ns = self.touched_ns.get(&other);
        at_ns.is_some_and(|at_ns| *at_ns >= since_ns) || self.means().any(|node| node == other)
    }

    pub(super) fn note(&mut self, other: usize, slot: Slot, manner: Manner, mode: Mode) {
        let manners = self.routes.entry((other, slot)).or_default();
        match mode {
            Mode::Replace if !manners.is_empty() => manners[0] = manner,
            Mode::Append => manners.push(manner),
            _ => manners.insert(0, manner),
        }
    }

    pub(super) fn forget(&mut self, other: usize, slot: Slot) {
        if let Some(manners) = self.routes.get_mut(&(other, slot)) {
            manners.remove(0);
            if manners.is_empty() {
                self.routes.remove(&(other, slot));
            }
        }
    }
}

/// Returns the routes of others than the kernel and us in the tables that are looked at, in this order.
pub(super) fn theirs(net: &Net) -> impl Iterator<Item = &Entry> {
    const KERNEL: u8 = 2;
    let entries = [OTHER, MAIN]
        .into_iter()
        .flat_map(|table| net.entries(table));
    entries.filter(|entry| ![DEFAULT_PROTOCOL, KERNEL].contains(&entry.protocol))
}

/// Returns the routes that are to be followed by an interface, in the order of their destinations. Of several to one that with
/// the lowest metric counts, then that of the lowest table, then the first.
pub(super) fn best(theirs: &[Entry], tunnel: Option<u32>) -> Vec<Entry> {
    let mut best: BTreeMap<Ipv4Addr, &Entry> = BTreeMap::new();
    for entry in theirs {
        let meets = entry.table == OTHER || entry.protocol == BGP;
        let by_tunnel = entry.kind == Kind::Unicast && entry.ifindex == tunnel;
        if !meets || !by_tunnel || entry.prefix_len != 32 {
            continue;
        }
        // Tables come in the order of their numbers.
        let best = best.entry(entry.dst).or_insert(entry);
        if entry.metric < best.metric {
            *best = entry;
        }
    }
    best.into_values().copied().collect()
}
