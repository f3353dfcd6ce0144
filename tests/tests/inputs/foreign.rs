//! Frames that are none of our business: they go on untouched, to whoever they are for.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;

use anyhow::Result;
use dz_common::counters::Counter;
use dz_tests::frame::{Datagram, MORE_FRAGMENTS, udp_over_ipv6};
use dz_tests::tun;
use etherparse::{EtherType, Ipv4Header};

use crate::bed::{Attach, Bed};
use crate::case::{self, Case};
use crate::peer::{LOCAL, PORT, Peer};
use crate::session;

const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const OTHER_PORT: u16 = 40000;
/// Where a payload is cut in two: behind the UDP header and a whole liveness packet, in bytes, a
/// multiple of 8.
const CUT: usize = 48;
const NO_OPERATION: u8 = 1;
/// For experiments, RFC 3692: nobody's.
const OTHER_PROTOCOL: u8 = 253;

/// Beside a session that is Up.
pub(crate) fn test(bed: &Bed) -> Result<()> {
    let peer = session::up(bed, PEER)?;
    let socket = bed.netns.run(|| UdpSocket::bind((LOCAL, OTHER_PORT)))?;
    let socket = Arc::new(socket);
    let mut cases = to_a_socket(bed, &socket);
    cases.extend(fragments(bed, &peer, &socket));
    cases.extend(ipv6(bed)?);
    cases.extend(our_port(bed, &peer));
    cases.extend(bad_headers(bed, &peer));
    cases.extend(truncated(bed, &peer)?);
    let raw = raw_socket(bed)?;
    cases.push(other_protocol(bed, &peer));
    case::run(bed, &cases)?;
    drop(raw);
    Ok(())
}

fn to_other_port(payload: &[u8]) -> Datagram {
    let end = |address, port| SocketAddrV4::new(address, port);
    Datagram::new(end(PEER, PORT), end(LOCAL, OTHER_PORT), payload)
}

fn to_a_socket(bed: &Bed, socket: &Arc<UdpSocket>) -> Vec<Case> {
    let long: Vec<u8> = (0..1400_u16).map(|byte| byte as u8).collect();
    let mut cases = Vec::new();
    for (name, payload) in [
        ("other port", b"hello".as_slice()),
        ("other port, no payload", b""),
        ("other port, long", &long),
    ] {
        let frame = bed.frame(&to_other_port(payload).build());
        cases.push(Case::passed(name, frame, Counter::PassOtherPort).delivered(socket, payload));
    }
    let options = Datagram {
        options: vec![NO_OPERATION; 4],
        ..to_other_port(b"optional")
    };
    let frame = bed.frame(&options.build());
    cases.push(
        Case::passed("IP options", frame, Counter::PassIpOptions).delivered(socket, b"optional"),
    );
    cases
}

/// A datagram in two fragments. The first one to our port looks like a whole liveness packet.
fn fragments(bed: &Bed, peer: &Peer, socket: &Arc<UdpSocket>) -> Vec<Case> {
    let mut payload = bed.liveness(peer).build();
    payload.extend(b"and something more");
    let mut cases = Vec::new();
    for port in [OTHER_PORT, PORT] {
        let whole = Datagram {
            dst: SocketAddrV4::new(LOCAL, port),
            id: port,
            ..to_other_port(&payload)
        };
        let [first, second] = cut(&whole).map(|packet| bed.frame(&packet));
        let name = |which: &str| format!("{which} fragment to port {port}");
        cases.push(Case::passed(name("first"), first, Counter::PassFragment));
        let last = Case::passed(name("last"), second, Counter::PassFragment);
        cases.push(if port == OTHER_PORT {
            last.delivered(socket, &payload)
        } else {
            last
        });
    }
    cases
}

/// Cuts a datagram in two. Only the fields that differ from the whole's are built anew.
fn cut(whole: &Datagram) -> [Vec<u8>; 2] {
    let packet = whole.build();
    let (first, second) = packet[20..].split_at(CUT);
    [(first, MORE_FRAGMENTS), (second, CUT as u16 / 8)].map(|(part, fragment)| {
        let header = Datagram {
            fragment,
            total_len: Some(20 + part.len() as u16),
            ..whole.clone()
        };
        let mut fragment = header.build();
        fragment.truncate(20);
        fragment.extend(part);
        fragment
    })
}

/// The same numbers in another protocol, our port included.
fn ipv6(bed: &Bed) -> Result<Vec<Case>> {
    let near = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
    let far = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
    let mut cases = Vec::new();
    for port in [OTHER_PORT, PORT] {
        let socket = bed.netns.run(|| UdpSocket::bind((near, port)))?;
        let packet = udp_over_ipv6((far, PORT), (near, port), b"six");
        let frame = bed.frame_of(EtherType::IPV6, &packet);
        let case = Case::passed(format!("IPv6 to port {port}"), frame, Counter::PassNotIpv4);
        cases.push(case.delivered(&Arc::new(socket), b"six"));
    }
    Ok(cases)
}

/// Sound liveness packets, but not for our handler. The agent's own socket, which reads nothing,
/// is where they end, so that they cause no ICMP.
fn our_port(bed: &Bed, peer: &Peer) -> Vec<Case> {
    let good = bed.liveness(peer).from(PEER);
    let mut cases = Vec::new();
    for words in [1, 10] {
        let options = Datagram {
            options: vec![NO_OPERATION; 4 * words],
            ..good.clone()
        };
        let name = format!("liveness packet behind {words} words of IP options");
        cases.push(Case::passed(
            name,
            bed.frame(&options.build()),
            Counter::PassIpOptions,
        ));
    }
    // Another host's, a group's and the network's.
    for address in [[10, 77, 0, 77], [224, 0, 0, 5], [10, 77, 0, 255]] {
        let other = Datagram {
            dst: SocketAddrV4::new(address.into(), PORT),
            ..good.clone()
        };
        cases.push(Case::passed(
            format!("liveness packet to {address:?}"),
            bed.frame(&other.build()),
            Counter::PassNotLocal,
        ));
    }
    if bed.attach.is_ethernet() {
        cases.extend(to_other_macs(bed, &good));
    }
    cases
}

fn to_other_macs(bed: &Bed, good: &Datagram) -> Vec<Case> {
    let mut macs = vec![
        ("broadcast", [0xff; 6]),
        ("a group", [0x01, 0, 0x5e, 0, 0, 5]),
    ];
    // XDP runs before the kernel compares addresses, and does not know the interface's: there,
    // frames for another host are kept away by the hardware's filter only.
    if !bed.attach.is_xdp() {
        macs.push(("another host", [2, 0, 0, 0, 0, 0x77]));
    }
    let to = |(name, mac): (&str, [u8; 6])| {
        let mut frame = bed.frame(&good.build());
        frame[..6].copy_from_slice(&mac);
        Case::passed(format!("to the MAC of {name}"), frame, Counter::PassNotHost)
    };
    macs.into_iter().map(to).collect()
}

/// IPv4 headers that the stack refuses: it sees them, and counts them, as before us.
fn bad_headers(bed: &Bed, peer: &Peer) -> Vec<Case> {
    let good = bed.liveness(peer).from(PEER);
    let with = |name: &str, datagram: Datagram, exit: Counter| {
        Case::passed(name, bed.frame(&datagram.build()), exit)
    };
    let checksum = Datagram {
        header_checksum_good: false,
        ..good.clone()
    };
    let header_len = Datagram {
        version_ihl: Some(0x44),
        ..good.clone()
    };
    let total = |total_len: u16| Datagram {
        total_len: Some(total_len),
        ..good.clone()
    };
    let version = Datagram {
        version_ihl: Some(0x55),
        ..good.clone()
    };
    let mut cases = vec![
        with("IPv4 checksum", checksum, Counter::PassIpHeader),
        with("IPv4 header of 16 bytes", header_len, Counter::PassIpHeader),
        with("IPv4 total length 0", total(0), Counter::PassIpHeader),
        with("IPv4 total length 27", total(27), Counter::PassIpHeader),
        with("IPv4 total length 69", total(69), Counter::PassTruncated),
    ];
    // A TUN device itself refuses anything but versions 4 and 6.
    if bed.attach.is_ethernet() {
        cases.push(with("IP version 5", version, Counter::PassIpHeader));
    }
    cases
}

/// A sound packet, cut off after each byte.
fn truncated(bed: &Bed, peer: &Peer) -> Result<Vec<Case>> {
    let packet = bed.liveness(peer).from(PEER).build();
    let shortest = match bed.attach {
        // GRE itself drops what is no whole IPv4 header (`ip_tunnel_rcv`), TUN what is nothing.
        Attach::TcLayer3 if tun::Kind::wanted()? == tun::Kind::Gre => Ipv4Header::MIN_LEN,
        Attach::TcLayer3 => 1,
        Attach::TcEthernet | Attach::XdpNative | Attach::XdpGeneric => 0,
    };
    Ok((shortest..packet.len())
        .map(|len| {
            let name = format!("cut off after {len} bytes");
            Case::passed(name, bed.frame(&packet[..len]), Counter::PassTruncated)
        })
        .collect())
}

/// With somebody who listens to it, for the kernel would send an ICMP error otherwise.
fn raw_socket(bed: &Bed) -> Result<socket2::Socket> {
    let protocol = socket2::Protocol::from(i32::from(OTHER_PROTOCOL));
    let open = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(protocol));
    Ok(bed.netns.run(open)?)
}

fn other_protocol(bed: &Bed, peer: &Peer) -> Case {
    let datagram = Datagram {
        protocol: OTHER_PROTOCOL,
        ..bed.liveness(peer).from(PEER)
    };
    let frame = bed.frame(&datagram.build());
    Case::passed("another protocol", frame, Counter::PassNotUdp)
}
