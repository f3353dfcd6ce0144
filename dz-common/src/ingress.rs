//! From a frame to a liveness packet: the checks that decide whether a frame is ours, and whether
//! it is sound.
//!
//! Written over [`Frame`] so that the kernel programs, the differential test and a fuzzer run the
//! same code. All offsets are constants once the link layer is known: frames with IPv4 options go
//! to the stack.

use crate::checksum::{self, IPPROTO_UDP};
use crate::counters::Counter;
use crate::headers::{ETHERNET_LEN, ETHERTYPE_IPV4, IPV4_LEN, UDP_LEN};
use crate::packet::{PACKET_LEN, Packet};
use crate::unaligned::{be16, word};

const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// MF flag and fragment offset of the IPv4 header.
const FRAGMENT_MASK: u16 = 0x3fff;

/// Read access to a frame.
pub trait Frame {
    /// `N` bytes at `offset`, or none if they are not (directly) readable.
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;
    /// Length of the whole frame, directly readable or not.
    fn frame_len(&self) -> usize;
}

/// The header that a frame of an interface starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The IPv4 header: GRE, TUN.
    Layer3,
    /// An Ethernet header.
    Ethernet,
}

impl Link {
    /// Offset of the IPv4 header.
    #[inline(always)]
    pub const fn ip_offset(self) -> usize {
        match self {
            Self::Layer3 => 0,
            Self::Ethernet => ETHERNET_LEN,
        }
    }

    /// Bytes from the start of the frame to the end of a liveness packet.
    #[inline(always)]
    pub const fn frame_len(self) -> usize {
        self.ip_offset() + crate::headers::DATAGRAM_LEN
    }
}

/// A UDP datagram to our port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address: the peer.
    pub src: [u8; 4],
    /// Destination address: ours, perhaps.
    pub dst: [u8; 4],
    /// Hops left.
    pub ttl: u8,
    /// Bytes behind the IPv4 header, at least 8.
    pub ip_payload_len: u16,
}

/// A sound liveness packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The packet.
    pub packet: Packet,
    /// The UDP checksum field holds the folded pseudo-header sum: either the checksum is still to
    /// be completed (`CHECKSUM_PARTIAL`), or it just happens to be equal (1 in 65,536).
    pub maybe_partial: bool,
    /// The payload is longer than a packet. So are several packets that the sender has handed over in one
    /// (UDP GSO), where the frame comes from this host's own virtual link.
    pub is_long: bool,
}

/// Decides whether a frame is a UDP datagram to `port` (host order).
///
/// # Errors
/// The `pass_*` exit for a frame that is not, or that the stack will refuse.
#[inline(always)]
pub fn classify<F: Frame + ?Sized>(frame: &F, link: Link, port: u16) -> Result<Flow, Counter> {
    let at = link.ip_offset();
    if let Link::Ethernet = link {
        let ethertype = be16(
            frame
                .read::<2>(ETHERNET_LEN - 2)
                .ok_or(Counter::PassTruncated)?,
        );
        if ethertype != ETHERTYPE_IPV4 {
            return Err(match ethertype {
                ETHERTYPE_VLAN | ETHERTYPE_QINQ => Counter::PassVlan,
                _ => Counter::PassNotIpv4,
            });
        }
    }
    let ip = frame.read::<IPV4_LEN>(at).ok_or(Counter::PassTruncated)?;
    let [version_ihl, _, length @ ..] = word::<0, _>(ip).to_ne_bytes();
    if version_ihl >> 4 != 4 {
        return Err(match link {
            Link::Layer3 => Counter::PassNotIpv4,
            Link::Ethernet => Counter::PassIpHeader,
        });
    }
    let [_, protocol, ..] = word::<2, _>(ip).to_ne_bytes();
    if protocol != IPPROTO_UDP {
        return Err(Counter::PassNotUdp);
    }
    if version_ihl != 0x45 {
        return Err(if version_ihl & 0xf > 5 {
            Counter::PassIpOptions
        } else {
            Counter::PassIpHeader
        });
    }
    let [_, _, fragment @ ..] = word::<1, _>(ip).to_ne_bytes();
    if u16::from_be_bytes(fragment) & FRAGMENT_MASK != 0 {
        return Err(Counter::PassFragment);
    }
    let dst_port = frame
        .read::<2>(at + IPV4_LEN + 2)
        .ok_or(Counter::PassTruncated)?;
    if be16(dst_port) != port {
        return Err(Counter::PassOtherPort);
    }

    // Our port. From here on a frame may cost more.
    if let Link::Ethernet = link {
        let destination = frame.read::<1>(0).ok_or(Counter::PassTruncated)?;
        if destination[0] & 1 != 0 {
            return Err(Counter::PassNotHost);
        }
    }
    let total_len = u16::from_be_bytes(length) as usize;
    if total_len < IPV4_LEN + UDP_LEN || checksum::fold(checksum::add(0, ip)) != 0xffff {
        return Err(Counter::PassIpHeader);
    }
    if at + total_len > frame.frame_len() {
        return Err(Counter::PassTruncated);
    }
    Ok(Flow {
        src: word::<3, _>(ip).to_ne_bytes(),
        dst: word::<4, _>(ip).to_ne_bytes(),
        ttl: word::<2, _>(ip).to_ne_bytes()[0],
        ip_payload_len: (total_len - IPV4_LEN) as u16,
    })
}

/// Conditions on a packet's port and hops that keep out senders elsewhere: a fence, where proof is the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The protocol's port, host order. All known senders send from it, and while they hold it no
    /// unprivileged user of their host can.
    pub port: u16,
    /// Fewest hops left (RFC 5082); 0: any.
    pub min_ttl: u8,
}

/// Checks and decodes the datagram of a frame that [`classify`] accepted.
///
/// The UDP checksum is verified where there is one and the payload is exactly 40 bytes; of a longer
/// payload only the first 40 bytes are read, and its checksum is not.
///
/// # Errors
/// The `drop_*` exit of the first rule that the datagram breaks.
#[inline(always)]
pub fn decode<F: Frame + ?Sized>(
    frame: &F,
    link: Link,
    flow: &Flow,
    fence: Fence,
) -> Result<Received, Counter> {
    let at = link.ip_offset() + IPV4_LEN;
    let udp = frame.read::<UDP_LEN>(at).ok_or(Counter::Fault)?;
    let [source_high, source_low, ..] = word::<0, _>(udp).to_ne_bytes();
    if u16::from_be_bytes([source_high, source_low]) != fence.port {
        return Err(Counter::DropSourcePort);
    }
    if flow.ttl < fence.min_ttl {
        return Err(Counter::DropTtl);
    }
    let [length_high, length_low, checksum @ ..] = word::<1, _>(udp).to_ne_bytes();
    let udp_len = u16::from_be_bytes([length_high, length_low]);
    if udp_len < UDP_LEN as u16 || udp_len > flow.ip_payload_len {
        return Err(Counter::DropUdpLength);
    }
    if udp_len < (UDP_LEN + PACKET_LEN) as u16 {
        return Err(Counter::DropShort);
    }
    let payload = frame
        .read::<PACKET_LEN>(at + UDP_LEN)
        .ok_or(Counter::Fault)?;
    let field = u16::from_ne_bytes(checksum);
    let pseudo = checksum::pseudo_header(&flow.src, &flow.dst, udp_len);
    let maybe_partial = field == checksum::fold(pseudo);
    if field != 0 && !maybe_partial && udp_len == (UDP_LEN + PACKET_LEN) as u16 {
        let sum = checksum::add(checksum::add(pseudo, udp), payload);
        if checksum::fold(sum) != 0xffff {
            return Err(Counter::DropUdpChecksum);
        }
    }
    match Packet::decode_exact(payload) {
        Ok(packet) => Ok(Received {
            packet,
            maybe_partial,
            is_long: udp_len > (UDP_LEN + PACKET_LEN) as u16,
        }),
        Err(reject) => Err(Counter::rejected(reject)),
    }
}

/// A frame in ordinary memory.
impl Frame for [u8] {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.get(offset..)?.first_chunk()
    }

    #[inline(always)]
    fn frame_len(&self) -> usize {
        self.len()
    }
}
