//! Datagrams for us that are no sound liveness packet of a peer that we know.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use dz_common::counters::Counter;
use dz_tests::frame::{Datagram, UdpChecksum};

use crate::bed::{Bed, SECOND, STRANGER};
use crate::case::{self, Case};
use crate::liveness::{ADMIN_DOWN, DOWN, INIT, Liveness, PEER_DISCR, UP};
use crate::peer::{LOCAL, PORT, Peer};
use crate::session;
use crate::watch::{Place, Touch};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// What an Ethernet driver pads a frame to.
const SHORTEST_FRAME: usize = 60;

/// Over a session that is Up.
pub(crate) fn test(bed: &Bed) -> Result<()> {
    let peer = session::up(bed, PEER)?;
    let mut cases = short(bed, &peer);
    cases.extend(wrong_fields(bed, &peer));
    cases.extend(unproven(bed, &peer));
    cases.extend(source_ports(bed, &peer));
    cases.extend(wrong_lengths(bed, &peer));
    cases.extend(wrong_ends(bed, &peer));
    case::run(bed, &cases)
}

fn drop_local(bed: &Bed, name: impl Into<String>, datagram: &Datagram, exit: Counter) -> Case {
    Case::dropped(name, bed.frame(&datagram.build()), (Place::Local, exit))
}

/// Payloads of 0 to 39 bytes, on Ethernet as they are and as a driver pads them.
fn short(bed: &Bed, peer: &Peer) -> Vec<Case> {
    let mut cases = Vec::new();
    for len in 0..40 {
        let mut datagram = bed.liveness(peer).from(PEER);
        datagram.payload.truncate(len);
        let case = drop_local(
            bed,
            format!("payload of {len} bytes"),
            &datagram,
            Counter::DropShort,
        );
        if bed.attach.is_ethernet() && case.frame.len() < SHORTEST_FRAME {
            let mut frame = case.frame.clone();
            frame.resize(SHORTEST_FRAME, 0);
            let name = format!("{}, padded", case.name);
            cases.push(Case::dropped(
                name,
                frame,
                (Place::Local, Counter::DropShort),
            ));
        }
        cases.push(case);
    }
    cases
}

fn wrong_fields(bed: &Bed, peer: &Peer) -> Vec<Case> {
    let good = bed.liveness(peer);
    let of = |name: String, packet: Liveness, exit| drop_local(bed, name, &packet.from(PEER), exit);
    let mut cases = Vec::new();
    for version in [0, 2, 3, 4, 5, 6, 7] {
        let packet = Liveness { version, ..good };
        cases.push(of(
            format!("version {version}"),
            packet,
            Counter::DropVersion,
        ));
    }
    for length in [0, 39, 41, 255] {
        let packet = Liveness { length, ..good };
        cases.push(of(
            format!("length byte {length}"),
            packet,
            Counter::DropLength,
        ));
    }
    let packet = Liveness {
        multiplier: 0,
        ..good
    };
    cases.push(of(
        "multiplier 0".into(),
        packet,
        Counter::DropZeroMultiplier,
    ));
    let packet = Liveness {
        my_discr: 0,
        ..good
    };
    let exit = Counter::DropZeroDiscriminator;
    cases.push(of("sender's discriminator 0".into(), packet, exit));
    for your_discr in [
        peer.local_discr ^ 1,
        peer.local_discr.swap_bytes() ^ 0xff,
        u32::MAX,
    ] {
        for state in [INIT, UP] {
            let packet = Liveness {
                your_discr,
                state,
                ..good
            };
            cases.push(Case {
                touch: Touch::Seen(PEER),
                ..of(
                    format!("peer discriminator {your_discr:#x} in state {state}"),
                    packet,
                    Counter::DropWrongDiscriminator,
                )
            });
        }
    }
    cases
}

/// AdminDown that echoes anything but us, and Init and Up that echo nothing.
fn unproven(bed: &Bed, peer: &Peer) -> Vec<Case> {
    let of = |name: String, your_discr, state, exit| Case {
        touch: Touch::Seen(PEER),
        ..drop_local(
            bed,
            name,
            &Liveness::new(your_discr).in_state(state).from(PEER),
            exit,
        )
    };
    let echoes = [0, !peer.local_discr, PEER_DISCR].into_iter();
    let mut cases: Vec<_> = echoes
        .map(|echo| {
            let name = format!("AdminDown that echoes {echo:#x}");
            of(name, echo, ADMIN_DOWN, Counter::DropUnprovenAdminDown)
        })
        .collect();
    for state in [INIT, UP] {
        let exit = Counter::DropZeroYourDiscriminator;
        cases.push(of(
            format!("state {state} that echoes nothing"),
            0,
            state,
            exit,
        ));
    }
    cases
}

/// From a port that anybody on the peer's host may send from: whatever it is, nobody looks at it.
fn source_ports(bed: &Bed, peer: &Peer) -> Vec<Case> {
    let good = bed.liveness(peer);
    let exit = Counter::DropSourcePort;
    let mut cases = Vec::new();
    for port in [PORT - 1, PORT + 1, PORT.swap_bytes(), 53, 1, 0, u16::MAX] {
        let from = |packet: Liveness| Datagram {
            src: SocketAddrV4::new(PEER, port),
            ..packet.from(PEER)
        };
        for state in [ADMIN_DOWN, DOWN, INIT, UP] {
            let packet = from(good.in_state(state));
            let name = format!("port {port}, proven, state {state}");
            cases.push(drop_local(bed, name, &packet, exit));
        }
        let blind = from(Liveness::new(0).in_state(DOWN));
        cases.push(drop_local(bed, format!("port {port}, blind"), &blind, exit));
        let short = Datagram {
            payload: vec![0x20],
            ..from(good)
        };
        cases.push(drop_local(bed, format!("port {port}, short"), &short, exit));
    }
    cases
}

/// What the UDP header says of its datagram.
fn wrong_lengths(bed: &Bed, peer: &Peer) -> Vec<Case> {
    let good = bed.liveness(peer).from(PEER);
    let mut cases = Vec::new();
    for udp_len in [0, 7, 49, 0xffff] {
        let datagram = Datagram {
            udp_len: Some(udp_len),
            ..good.clone()
        };
        let name = format!("UDP length {udp_len}");
        cases.push(drop_local(bed, name, &datagram, Counter::DropUdpLength));
    }
    let datagram = Datagram {
        udp_len: Some(47),
        ..good.clone()
    };
    cases.push(drop_local(
        bed,
        "UDP length 47",
        &datagram,
        Counter::DropShort,
    ));
    // The IPv4 packet ends before its datagram, although the frame does not.
    let datagram = Datagram {
        total_len: Some(60),
        ..good.clone()
    };
    let name = "IPv4 total length 60";
    cases.push(drop_local(bed, name, &datagram, Counter::DropUdpLength));
    // The checksum of a longer payload is not looked at: only its first 40 bytes are read.
    let datagram = Datagram {
        udp_checksum: UdpChecksum::Bad,
        ..good
    };
    let name = "bad UDP checksum";
    cases.push(drop_local(bed, name, &datagram, Counter::DropUdpChecksum));
    cases
}

/// The right packet between the wrong addresses.
fn wrong_ends(bed: &Bed, peer: &Peer) -> Vec<Case> {
    let good = bed.liveness(peer).from(PEER);
    let end = |address| SocketAddrV4::new(address, PORT);
    let unknown = Counter::DropUnknownPeer;
    let stranger = Datagram {
        src: end(STRANGER),
        ..good.clone()
    };
    let nobody = Datagram {
        payload: Vec::new(),
        ..stranger.clone()
    };
    let second = Datagram {
        dst: end(SECOND),
        ..good.clone()
    };
    let both = Datagram {
        src: end(LOCAL),
        dst: end(PEER),
        ..good
    };
    vec![
        drop_local(bed, "unknown peer", &stranger, unknown),
        drop_local(bed, "unknown peer, no payload", &nobody, unknown),
        Case {
            counters: vec![(Place::Second, unknown)],
            ..drop_local(bed, "right peer, wrong local address", &second, unknown)
        },
        // In transit, the interface does not hold the address: the host's to judge.
        Case::passed(
            "addresses swapped",
            bed.frame(&both.build()),
            Counter::PassNotLocal,
        ),
    ]
}
