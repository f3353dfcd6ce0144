//! What peers say whose sessions are Up, as frames.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::anyhow;
use dz_common::LIVENESS_PORT;
use dz_common::ingress::Link;
use dz_common::map::SessionEntry;
use dz_common::packet::{PACKET_LEN, Packet, State, Version};
use dz_tests::bed::{HERE, INTERFACE};
use dz_tests::frame::{Datagram, ethernet};
use dz_tests::netns::Netns;
use dz_tests::veth;
use etherparse::EtherType;

use crate::crowd::{FIRST, Hosts, QUICK};

/// How often peers speak whose clocks tick before ours: always in time for that, and never too soon
/// for an answer.
pub(crate) const TICK_MS: f64 = 255.0;
/// By this discriminator every peer is known: it is the responder's.
const DISCRIMINATOR: u32 = 0x0dd_ba11;

/// Where a frame's liveness packet begins.
pub(crate) const PAYLOAD: usize = Link::Ethernet.frame_len() - PACKET_LEN;

/// One end of a session: address and discriminator.
pub(crate) type End = (Ipv4Addr, u32);

/// What the far ends of an agent's sessions say, in the order of their addresses.
pub(crate) fn frames_to<'a>(
    hosts: &Hosts,
    sessions: impl Iterator<Item = &'a SessionEntry>,
    interval_us: u32,
) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut ends: Vec<_> = sessions
        .map(|entry| (Ipv4Addr::from(entry.key.peer), entry.session.local_discr))
        .collect();
    ends.sort_unstable();
    debug_assert_eq!(ends.first().map(|(peer, _)| *peer), Some(FIRST));
    let frame = frames(&hosts.there, &hosts.here, interval_us)?;
    Ok(ends
        .into_iter()
        .map(|(peer, discr)| frame((peer, DISCRIMINATOR), (HERE, discr)))
        .collect())
}

/// What one end of a session says to the other, between two hosts.
pub(crate) fn frames(
    from: &Netns,
    to: &Netns,
    interval_us: u32,
) -> anyhow::Result<impl Fn(End, End) -> Vec<u8>> {
    let (dst_mac, src_mac) = (veth::mac(to, INTERFACE)?, veth::mac(from, INTERFACE)?);
    Ok(move |(src, my_discr): End, (dst, your_discr): End| {
        let packet = Packet {
            state: State::Up,
            detect_mult: QUICK.detect_mult,
            my_discr,
            your_discr,
            desired_min_tx_us: interval_us,
            required_min_rx_us: interval_us,
            passive: false,
            version: Version::new([0; 4]),
            reserved_set: false,
        };
        let [src, dst] = [src, dst].map(|end| SocketAddrV4::new(end, LIVENESS_PORT));
        let datagram = Datagram::new(src, dst, packet.encode()).build();
        ethernet(dst_mac, src_mac, EtherType::IPV4, &datagram, true)
    })
}

/// The same said in another state.
pub(crate) fn in_state(frame: &[u8], state: State) -> anyhow::Result<Vec<u8>> {
    let mut frame = frame.to_vec();
    let packet = Packet::decode(&frame[PAYLOAD..]).map_err(|error| anyhow!("{error:?}"))?;
    frame[PAYLOAD..].copy_from_slice(&Packet { state, ..packet }.encode());
    without_checksum(&mut frame);
    Ok(frame)
}

/// RFC 768: there is none.
pub(crate) fn without_checksum(frame: &mut [u8]) {
    frame[PAYLOAD - 2..PAYLOAD].fill(0);
}
