//! What is done to both: drawn so that names, addresses and destinations meet each other often.

use std::net::Ipv4Addr;

use dz_agent::memory::net::{Entry, Kind, LOCAL, MAIN, Mode, Net, Which};
use dz_agent::net::links::Address;
use dz_agent::net::routes::Route;
use dz_tests::rng::Rng;

/// Names of links: those that begin with `v` are Ethernet, the others carry packets of layer 3.
pub(crate) const NAMES: [&str; 5] = ["v0", "v1", "v2", "t0", "t1"];
/// A table that `--follow` may look at, besides the main one.
pub(crate) const TABLE: u32 = 100;
/// Our protocol, and two of others.
pub(crate) const OURS: u8 = 144;
pub(crate) const PROTOCOLS: [u8; 3] = [186, 4, OURS];

/// Addresses that links hold.
pub(crate) const HELD: [[u8; 4]; 9] = [
    [10, 0, 0, 1],
    [10, 0, 0, 2],
    [10, 0, 0, 3],
    [10, 0, 1, 1],
    [10, 0, 1, 2],
    [169, 254, 0, 0],
    [169, 254, 0, 1],
    [203, 0, 113, 5],
    [203, 0, 113, 6],
];
/// Destinations of routes; some may be held, too.
pub(crate) const DESTINATIONS: [[u8; 4]; 7] = [
    [198, 51, 100, 1],
    [198, 51, 100, 2],
    [198, 51, 100, 3],
    [10, 0, 1, 2],
    [10, 0, 0, 255],
    [169, 254, 0, 1],
    [203, 0, 113, 6],
];
/// Far ends.
const NEIGHBOURS: [[u8; 4]; 3] = [[10, 0, 0, 7], [10, 0, 0, 8], [169, 254, 0, 1]];

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Create(&'static str),
    Delete(u32),
    SetUp(u32, bool),
    Rename(u32, &'static str),
    SetMac(u32, [u8; 6]),
    AddAddress(u32, Address),
    DeleteAddress(u32, Address),
    AddOurs(Route),
    DeleteOurs(Ipv4Addr, u32),
    Add(Entry, Mode),
    Remove(Which),
    Resolve(u32, Ipv4Addr),
    /// The search has ended.
    Answer(u32, Ipv4Addr, Option<[u8; 6]>),
    /// One that was known does not answer any more.
    Lose(u32, Ipv4Addr),
    SetNeighbour(u32, Ipv4Addr, [u8; 6], bool),
    DeleteNeighbour(u32, Ipv4Addr),
}

/// One of the addresses.
pub(crate) fn any(rng: &Rng, of: &[[u8; 4]]) -> Ipv4Addr {
    rng.pick(of).into()
}

fn truncated(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len));
    Ipv4Addr::from(u32::from(address) & mask.unwrap_or(0))
}

impl Operation {
    /// Draws one that fits what there is.
    pub(crate) fn draw(rng: &Rng, net: &Net) -> Self {
        let free: Vec<_> = NAMES
            .into_iter()
            .filter(|name| net.ifindex(name).is_none())
            .collect();
        let links: Vec<_> = NAMES
            .into_iter()
            .filter_map(|name| net.interface(name))
            .collect();
        let Some(link) = links.get(rng.index(links.len().max(1))) else {
            return Self::Create(rng.pick(&free));
        };
        // Now and then an interface that is gone.
        let ifindex = match rng.chance(3) {
            true => 9_999,
            false => link.ifindex,
        };
        let ethernet = link.mac.is_some().then_some(link.ifindex);
        match (rng.below(100), ethernet) {
            (0..5, _) if !free.is_empty() => Self::Create(rng.pick(&free)),
            (5..8, _) => Self::Delete(ifindex),
            (8..18, _) => Self::SetUp(ifindex, rng.chance(70)),
            // A link that is up can be renamed since Linux 6.2 only.
            (18, _) if !free.is_empty() && !link.up => {
                let same_kind = |name: &&&str| name.as_bytes()[0] == link.name.as_bytes()[0];
                let mut names = free.iter().filter(same_kind);
                match names.next() {
                    Some(name) => Self::Rename(link.ifindex, name),
                    None => Self::SetUp(link.ifindex, true),
                }
            }
            (19, Some(ifindex)) => Self::SetMac(ifindex, mac(rng)),
            (19..33, _) => Self::AddAddress(ifindex, address(rng)),
            (33..40, _) => delete_address(rng, net),
            (40..56, _) => Self::AddOurs(ours(rng, ifindex)),
            (56..62, _) => Self::DeleteOurs(any(rng, &DESTINATIONS), ifindex),
            (62..80, _) => {
                let mode = [Mode::Exclusive, Mode::Prepend, Mode::Append, Mode::Replace];
                Self::Add(entry(rng, ifindex), rng.pick(&mode))
            }
            (80..90, _) => Self::Remove(which(rng, ifindex)),
            (90..93, Some(ifindex)) => Self::Resolve(ifindex, any(rng, &NEIGHBOURS)),
            (93..96, Some(_)) if !net.resolving().is_empty() => {
                let resolving = net.resolving();
                let (ifindex, address) = resolving[rng.index(resolving.len())];
                let mac = rng.chance(60).then(|| mac(rng));
                Self::Answer(ifindex, address, mac)
            }
            (93, Some(ifindex)) if !net.neighbours(ifindex).is_empty() => {
                let known = net.neighbours(ifindex);
                Self::Lose(ifindex, known[rng.index(known.len())].0)
            }
            (93..98, Some(ifindex)) => {
                Self::SetNeighbour(ifindex, any(rng, &NEIGHBOURS), mac(rng), rng.chance(30))
            }
            (_, Some(ifindex)) => Self::DeleteNeighbour(ifindex, any(rng, &NEIGHBOURS)),
            _ => Self::AddOurs(ours(rng, ifindex)),
        }
    }
}

fn mac(rng: &Rng) -> [u8; 6] {
    [2, 0, 0, 0, 0, rng.byte() % 3]
}

fn address(rng: &Rng) -> Address {
    let local = any(rng, &HELD);
    let is_link = local.octets()[0] == 169;
    let prefix_len = match is_link {
        true => 31,
        false => rng.pick(&[24, 24, 31, 32, 32, 30]),
    };
    let peer = rng.chance(10).then(|| any(rng, &HELD));
    Address {
        local,
        prefix_len,
        peer: peer.filter(|peer| *peer != local),
        scope: match is_link || rng.chance(5) {
            true => 253,
            false => 0,
        },
        secondary: false,
    }
}

/// Mostly one that is there.
fn delete_address(rng: &Rng, net: &Net) -> Operation {
    let mut there = net.addresses();
    there.retain(|(ifindex, _)| *ifindex != 1);
    let (ifindex, found) = match there.is_empty() {
        true => (9_999, address(rng)),
        false => there[rng.index(there.len())],
    };
    match rng.chance(10) {
        true => Operation::DeleteAddress(ifindex, address(rng)),
        false => Operation::DeleteAddress(ifindex, found),
    }
}

fn ours(rng: &Rng, ifindex: u32) -> Route {
    Route {
        dst: any(rng, &DESTINATIONS),
        ifindex,
        src: rng.chance(80).then(|| any(rng, &HELD)),
        via: rng.chance(30).then(|| any(rng, &HELD)),
    }
}

/// Somebody else's entry. What is left out: a second default route of one metric, among which the kernel
/// chooses by the state of neighbours (`fib_select_default`), and ranges of addresses in the table
/// `local`, which the kernel looks up before the main table or together with it, depending on whether
/// there were ever rules. Nobody gives a route that leads nowhere a source.
fn entry(rng: &Rng, ifindex: u32) -> Entry {
    let table = rng.pick(&[MAIN, MAIN, MAIN, TABLE, LOCAL]);
    let prefix_len = match table {
        LOCAL => 32,
        _ => rng.pick(&[32, 32, 32, 24, 8]),
    };
    let kind = match (table, rng.below(8)) {
        (LOCAL, _) => Kind::Local,
        (_, 0) => Kind::Blackhole,
        (_, 1) => rng.pick(&[Kind::Unreachable, Kind::Prohibit, Kind::Throw]),
        _ => Kind::Unicast,
    };
    let leads_somewhere = matches!(kind, Kind::Unicast | Kind::Local);
    let via = (kind == Kind::Unicast && rng.chance(30)).then(|| any(rng, &HELD));
    Entry {
        table,
        dst: truncated(any(rng, &DESTINATIONS), prefix_len),
        prefix_len,
        tos: rng.pick(&[0, 0, 0, 0x10]),
        metric: rng.pick(&[0, 0, 20]),
        protocol: rng.pick(&PROTOCOLS),
        scope: match (kind, via) {
            (Kind::Local, _) => 254,
            (Kind::Unicast, None) => rng.pick(&[0, 253, 253]),
            _ => 0,
        },
        kind,
        ifindex: leads_somewhere.then_some(ifindex),
        src: (leads_somewhere && rng.chance(40)).then(|| any(rng, &HELD)),
        via,
    }
}

fn which(rng: &Rng, ifindex: u32) -> Which {
    let like = entry(rng, ifindex);
    Which {
        table: like.table,
        dst: like.dst,
        prefix_len: like.prefix_len,
        tos: like.tos,
        metric: like.metric,
        protocol: rng.pick(&[0, like.protocol]),
        scope: None,
        kind: None,
        ifindex: like.ifindex.filter(|_| rng.chance(50)),
        src: None,
        via: None,
    }
}
