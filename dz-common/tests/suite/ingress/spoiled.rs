//! Every way to spoil a sound frame, and the exit that the frame then takes.

use super::parts::{Parts, UdpSum, sound};
use dz_common::counters::Counter;
use dz_common::ingress::Link;

/// A way to spoil a sound frame.
type Spoil = fn(&mut Parts);

/// What it is, how to get there, the exit it takes.
const SPOILED: &[(&str, Spoil, Counter)] = &[
    ("ICMP", |p| p.ip[9] = 1, Counter::PassNotUdp),
    (
        "TCP with options",
        |p| (p.ip[9], p.ip[0]) = (6, 0x46),
        Counter::PassNotUdp,
    ),
    ("options", |p| with_options(p), Counter::PassIpOptions),
    (
        "header length below 5",
        |p| p.ip[0] = 0x44,
        Counter::PassIpHeader,
    ),
    ("first fragment", |p| p.ip[6] = 0x20, Counter::PassFragment),
    (
        "later fragment",
        |p| (p.ip[6], p.ip[7]) = (0, 8),
        Counter::PassFragment,
    ),
    (
        "last fragment, highest offset",
        |p| (p.ip[6], p.ip[7]) = (0x1f, 0xff),
        Counter::PassFragment,
    ),
    ("other port", |p| p.udp[3] ^= 1, Counter::PassOtherPort),
    (
        "from another port",
        |p| p.udp[..2].copy_from_slice(&[0x30, 0x39]),
        Counter::DropSourcePort,
    ),
    (
        "from port 0, and short",
        |p| (p.udp[..2].fill(0), p.udp_len_off = -1).0,
        Counter::DropSourcePort,
    ),
    ("a hop too many", |p| p.ip[8] = 1, Counter::DropTtl),
    (
        "our port to another",
        |p| p.udp = [0xaf, 0x50, 0, 53, 0, 0, 0, 0],
        Counter::PassOtherPort,
    ),
    (
        "IPv4 checksum",
        |p| p.bad_ip_sum = true,
        Counter::PassIpHeader,
    ),
    (
        "total length below 28",
        |p| p.total_len_off = -41,
        Counter::PassIpHeader,
    ),
    (
        "total length beyond the frame",
        |p| p.total_len_off = 1,
        Counter::PassTruncated,
    ),
    (
        "UDP length below 8",
        |p| p.udp_len_off = -41,
        Counter::DropUdpLength,
    ),
    (
        "UDP length beyond the packet",
        |p| p.udp_len_off = 1,
        Counter::DropUdpLength,
    ),
    (
        "UDP length into padding",
        |p| (p.udp_len_off, p.padding) = (1, 4),
        Counter::DropUdpLength,
    ),
    (
        "UDP length says 39",
        |p| p.udp_len_off = -1,
        Counter::DropShort,
    ),
    (
        "padding does not lengthen",
        |p| padded_short(p),
        Counter::DropShort,
    ),
    ("no payload", |p| p.payload.clear(), Counter::DropShort),
    (
        "UDP checksum",
        |p| p.udp_sum = UdpSum::Wrong,
        Counter::DropUdpChecksum,
    ),
    ("version 0", |p| p.payload[0] = 0, Counter::DropVersion),
    ("length byte", |p| p.payload[3] = 41, Counter::DropLength),
    (
        "multiplier 0",
        |p| p.payload[2] = 0,
        Counter::DropZeroMultiplier,
    ),
    (
        "discriminator 0",
        |p| p.payload[4..8].fill(0),
        Counter::DropZeroDiscriminator,
    ),
    // Sound after all.
    ("as it should be", |_| {}, Counter::RxAnswered),
    (
        "no UDP checksum",
        |p| p.udp_sum = UdpSum::None,
        Counter::RxAnswered,
    ),
    (
        "checksum to be completed",
        |p| p.udp_sum = UdpSum::Partial,
        Counter::RxAnswered,
    ),
    ("padding", |p| p.padding = 18, Counter::RxAnswered),
    ("longer payload", |p| p.payload.push(1), Counter::RxAnswered),
    (
        "TOS, fewest hops left, no DF",
        |p| (p.ip[1], p.ip[8], p.ip[6]) = (0xb8, 2, 0),
        Counter::RxAnswered,
    ),
    ("reserved byte", |p| p.payload[39] = 1, Counter::RxAnswered),
];

/// Only where the link has them.
const SPOILED_ETHERNET: &[(&str, Spoil, Counter)] = &[
    (
        "IPv6",
        |p| p.ethernet[12..].copy_from_slice(&[0x86, 0xdd]),
        Counter::PassNotIpv4,
    ),
    (
        "ARP",
        |p| p.ethernet[12..].copy_from_slice(&[8, 6]),
        Counter::PassNotIpv4,
    ),
    (
        "VLAN",
        |p| p.ethernet[12..].copy_from_slice(&[0x81, 0]),
        Counter::PassVlan,
    ),
    (
        "QinQ",
        |p| p.ethernet[12..].copy_from_slice(&[0x88, 0xa8]),
        Counter::PassVlan,
    ),
    (
        "broadcast",
        |p| p.ethernet[..6].fill(0xff),
        Counter::PassNotHost,
    ),
    ("multicast", |p| p.ethernet[0] |= 1, Counter::PassNotHost),
    (
        "version 6 under EtherType IPv4",
        |p| p.ip[0] = 0x65,
        Counter::PassIpHeader,
    ),
];
const SPOILED_LAYER3: &[(&str, Spoil, Counter)] =
    &[("IPv6", |p| p.ip[0] = 0x60, Counter::PassNotIpv4)];

fn with_options(parts: &mut Parts) {
    parts.ip[0] = 0x46;
    parts.ip.extend([1, 1, 1, 0]);
}

fn padded_short(parts: &mut Parts) {
    parts.payload.truncate(39);
    parts.padding = 20;
}

/// The name of each, its frame on this link, and its exit.
pub(super) fn cases(link: Link) -> impl Iterator<Item = (&'static str, Vec<u8>, Counter)> {
    let own = match link {
        Link::Layer3 => SPOILED_LAYER3,
        Link::Ethernet => SPOILED_ETHERNET,
    };
    SPOILED.iter().chain(own).map(move |(name, spoil, exit)| {
        let mut parts = sound();
        spoil(&mut parts);
        (*name, parts.frame(link), *exit)
    })
}
