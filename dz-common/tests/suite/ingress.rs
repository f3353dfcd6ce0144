//! Every exit of classification and decoding, on frames built by hand.

use crate::headers::{ones_sum, with_pseudo_header};
use crate::support::{OURS, Rng, for_seeds, packet};
use dz_common::LIVENESS_PORT;
use dz_common::counters::{Counter, Kind};
use dz_common::ingress::{Fence, Flow, Frame, Link, Received, classify, decode};
use dz_common::packet::State;

const SRC: [u8; 4] = [10, 0, 0, 2];
const DST: [u8; 4] = [10, 0, 0, 1];
const LINKS: [Link; 2] = [Link::Layer3, Link::Ethernet];
const FENCE: Fence = Fence {
    port: LIVENESS_PORT,
    min_ttl: 2,
};

/// A frame in its parts, so that a test can spoil one of them.
#[derive(Clone)]
struct Parts {
    ethernet: [u8; 14],
    ip: Vec<u8>,
    udp: [u8; 8],
    payload: Vec<u8>,
    /// Bytes behind the IPv4 packet, as Ethernet pads.
    padding: usize,
    /// Added to the UDP length field.
    udp_len_off: i16,
    /// Added to the IPv4 total length field.
    total_len_off: i16,
    /// The IPv4 checksum is spoiled.
    bad_ip_sum: bool,
    udp_sum: UdpSum,
}

#[derive(Clone, Copy, PartialEq)]
enum UdpSum {
    Right,
    Wrong,
    None,
    Partial,
}

fn sound() -> Parts {
    let [port_high, port_low] = LIVENESS_PORT.to_be_bytes();
    let mut ip = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0];
    ip.extend(SRC);
    ip.extend(DST);
    Parts {
        ethernet: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0],
        ip,
        udp: [port_high, port_low, port_high, port_low, 0, 0, 0, 0],
        payload: packet(State::Up, OURS).encode().to_vec(),
        padding: 0,
        udp_len_off: 0,
        total_len_off: 0,
        bad_ip_sum: false,
        udp_sum: UdpSum::Right,
    }
}

impl Parts {
    fn frame(&self, link: Link) -> Vec<u8> {
        let mut udp = [&self.udp[..], &self.payload].concat();
        let udp_len = (udp.len() as i16 + self.udp_len_off) as u16;
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        let summed = with_pseudo_header(&SRC, &DST, &udp);
        let sum = match self.udp_sum {
            UdpSum::Right => !ones_sum(&summed),
            UdpSum::Wrong => !ones_sum(&summed) ^ 0x0100,
            UdpSum::None => 0,
            UdpSum::Partial => ones_sum(&summed[..12]),
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        let mut ip = self.ip.clone();
        let total_len = ((ip.len() + udp.len()) as i16 + self.total_len_off) as u16;
        ip[2..4].copy_from_slice(&total_len.to_be_bytes());
        let sum = !ones_sum(&ip) ^ u16::from(self.bad_ip_sum);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let ethernet = match link {
            Link::Layer3 => &[][..],
            Link::Ethernet => &self.ethernet,
        };
        [ethernet, &ip, &udp, &vec![0xee; self.padding]].concat()
    }
}

fn receive(frame: &[u8], link: Link) -> Result<(Flow, Received), Counter> {
    let flow = classify(frame, link, LIVENESS_PORT)?;
    Ok((flow, decode(frame, link, &flow, FENCE)?))
}

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

fn cases(link: Link) -> impl Iterator<Item = (&'static str, Vec<u8>, Counter)> {
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

#[test]
fn every_spoiled_frame_takes_its_exit() {
    for link in LINKS {
        for (name, frame, exit) in cases(link) {
            let got = receive(&frame, link).err().unwrap_or(Counter::RxAnswered);
            assert_eq!(got, exit, "{link:?}: {name}");
        }
    }
}

/// Every exit that the code here can take is taken by some frame above.
#[test]
fn the_table_reaches_every_exit_that_a_frame_alone_decides() {
    let reached: Vec<_> = LINKS
        .into_iter()
        .flat_map(cases)
        .map(|(.., exit)| exit)
        .collect();
    // These need a session, an address or a policy.
    let elsewhere = [
        Counter::PassNotLocal,
        Counter::PassUnknownPeer,
        Counter::DropUnknownPeer,
        Counter::DropAdminDown,
        Counter::DropUnprovenAdminDown,
        Counter::DropZeroYourDiscriminator,
        Counter::DropWrongDiscriminator,
    ];
    let frames = Counter::ALL.iter().filter(|counter| {
        let name = counter.name();
        let early = name.starts_with("pass_") || name.starts_with("drop_");
        counter.kind() == Kind::Exit && early && !elsewhere.contains(counter)
    });
    for counter in frames {
        assert!(
            reached.contains(counter),
            "no frame takes {}",
            counter.name()
        );
    }
}

#[test]
fn a_sound_frame_yields_its_addresses_and_its_packet() {
    for link in LINKS {
        let frame = sound().frame(link);
        assert_eq!(frame.len(), link.frame_len());
        let (flow, received) = receive(&frame, link).unwrap();
        assert_eq!(
            flow,
            Flow {
                src: SRC,
                dst: DST,
                ttl: 64,
                ip_payload_len: 48
            }
        );
        assert_eq!(received.packet, packet(State::Up, OURS));
        assert!(!received.maybe_partial);

        let mut parts = sound();
        parts.udp_sum = UdpSum::Partial;
        assert!(receive(&parts.frame(link), link).unwrap().1.maybe_partial);
    }
}

#[test]
fn a_frame_cut_anywhere_is_truncated() {
    for link in LINKS {
        let frame = sound().frame(link);
        for length in 0..frame.len() {
            let got = receive(&frame[..length], link).err();
            assert_eq!(
                got,
                Some(Counter::PassTruncated),
                "{link:?} cut at {length}"
            );
        }
    }
}

/// A frame whose tail cannot be read directly: the programs see that as a fault, not as a packet.
struct Partly<'a>(&'a [u8], usize);

impl Frame for Partly<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.0[..self.1].get(offset..)?.first_chunk()
    }

    fn frame_len(&self) -> usize {
        self.0.len()
    }
}

#[test]
fn what_cannot_be_read_is_never_taken_for_a_packet() {
    for link in LINKS {
        let frame = sound().frame(link);
        for readable in 0..frame.len() {
            let partly = Partly(&frame, readable);
            let exit = match classify(&partly, link, LIVENESS_PORT) {
                Err(exit) => exit,
                Ok(flow) => decode(&partly, link, &flow, FENCE).unwrap_err(),
            };
            let headers = link.ip_offset() + 24;
            let expected = if readable < headers {
                Counter::PassTruncated
            } else {
                Counter::Fault
            };
            assert_eq!(exit, expected, "{link:?}: {readable} bytes readable");
        }
    }
}

/// Bits flipped, bytes set, ends cut: no panic, no fault, and nothing that was spoiled under a
/// checksum is accepted unless that checksum is absent or taken for an unfinished one.
#[test]
fn mutated_frames_never_panic_or_fault() {
    for_seeds(50_000, |rng: &mut Rng| {
        let link = rng.pick(&LINKS);
        let mut frame = sound().frame(link);
        for _ in 0..=rng.below(4) {
            let at = rng.below(frame.len() as u64) as usize;
            frame[at] = if rng.chance(50) {
                rng.byte()
            } else {
                frame[at] ^ (1 << rng.below(8))
            };
        }
        if rng.chance(20) {
            frame.truncate(rng.below(frame.len() as u64) as usize);
        }
        match receive(&frame, link) {
            Err(exit) => assert_ne!(exit, Counter::Fault),
            Ok((flow, received)) => {
                let ip = &frame[link.ip_offset()..];
                assert_eq!(ones_sum(&ip[..20]), 0xffff);
                let udp_len = usize::from(u16::from_be_bytes([ip[24], ip[25]]));
                let whole = udp_len == 48 && ip[26..28] != [0, 0] && !received.maybe_partial;
                let sum = ones_sum(&with_pseudo_header(
                    &flow.src,
                    &flow.dst,
                    &ip[20..20 + udp_len],
                ));
                assert!(!whole || sum == 0xffff);
            }
        }
    });
}
