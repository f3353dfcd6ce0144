//! Packets that are out of the ordinary and yet sound: answered like any other, by 40 bytes to the
//! liveness port.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_common::counters::Counter::{self, DownToInit, ReservedSet};
use dz_tests::frame::{Datagram, UdpChecksum};

use crate::bed::Bed;
use crate::case;
use crate::liveness::{DOWN, INIT, Liveness};
use crate::session::{self, local};

/// One per input: each meets a session that has just begun.
const PEERS: [Ipv4Addr; 11] = {
    let mut peers = [Ipv4Addr::UNSPECIFIED; 11];
    let mut i = 0;
    while i < peers.len() {
        peers[i] = Ipv4Addr::new(10, 77, 0, 100 + i as u8);
        i += 1;
    }
    peers
};

struct Oddity {
    name: &'static str,
    change: fn(&mut Datagram),
    /// Bytes that follow the packet in its frame.
    trailer: usize,
    besides: Option<Counter>,
}

const fn oddity(name: &'static str, change: fn(&mut Datagram)) -> Oddity {
    Oddity {
        name,
        change,
        trailer: 0,
        besides: None,
    }
}

const fn reserved(name: &'static str, change: fn(&mut Datagram)) -> Oddity {
    Oddity {
        besides: Some(ReservedSet),
        ..oddity(name, change)
    }
}

const ODDITIES: [Oddity; PEERS.len()] = [
    oddity("nothing odd", |_| {}),
    reserved("first reserved byte", |datagram| datagram.payload[25] = 1),
    reserved("last reserved byte", |datagram| datagram.payload[39] = 0x80),
    reserved("all reserved bytes", |datagram| {
        datagram.payload[25..].fill(0xff);
    }),
    oddity("unknown flags", |datagram| datagram.payload[20] = 0xfe),
    oddity("low bits of version and state", |datagram| {
        datagram.payload[0] |= 0x1f;
        datagram.payload[1] |= 0x3f;
    }),
    oddity("payload of 41 bytes", |datagram| {
        datagram.payload.push(0xff)
    }),
    oddity("payload of 1400 bytes", |datagram| {
        datagram.payload.resize(1400, 0xff);
    }),
    oddity("no UDP checksum", |datagram| {
        datagram.udp_checksum = UdpChecksum::Absent;
    }),
    oddity("TTL, type of service, fragmentation allowed", |datagram| {
        datagram.ttl = 1;
        datagram.tos = 0xb8;
        datagram.id = 0xffff;
    }),
    Oddity {
        trailer: 20,
        ..oddity("frame longer than its packet", |_| {})
    },
];

/// Each of them is answered with Init: unproven, without a trace in its session, and proven, which
/// opens it.
pub(crate) fn test(bed: &Bed) -> Result<()> {
    let peers = bed.connect(&PEERS)?;
    // In XDP what is longer than a packet is left to our clock (`segments`).
    let here = |oddity: &Oddity| !bed.attach.is_xdp() || !oddity.name.starts_with("payload of");
    let cases: Vec<_> = ODDITIES.iter().zip(peers).collect();
    let cases: Vec<_> = cases
        .into_iter()
        .filter(|(oddity, _)| here(oddity))
        .collect();
    case::each(
        bed,
        &cases,
        |(oddity, _)| oddity.name,
        |(oddity, peer), before| {
            let frame = |your_discr| {
                let packet = Liveness::new(your_discr).in_state(DOWN);
                let mut datagram = packet.from(peer.address);
                (oddity.change)(&mut datagram);
                let mut frame = bed.frame(&datagram.build());
                frame.resize(frame.len() + oddity.trailer, 0xee);
                frame
            };
            let mut besides: Vec<_> = oddity.besides.map(local).into_iter().collect();
            let blind = frame(0);
            let before = session::introduced(bed, before, peer, &blind, &besides, INIT)?;
            besides.push(local(DownToInit));
            let proven = frame(peer.local_discr);
            let after = session::answered(bed, &before, peer, &proven, &besides, INIT)?;
            for (field, wanted) in [("/received", 2), ("/answered", 1), ("/originated", 1)] {
                let count = after.field(peer.address, field)?.as_u64();
                let count = count.with_context(|| format!("{field} is no number"))?;
                ensure!(count == wanted, "{field}: {count}");
            }
            Ok(after)
        },
    )
}
