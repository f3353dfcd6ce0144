//! Classification and decoding, on sound frames and on spoiled ones.

mod parts;
mod spoiled;

use crate::headers::ones_sum;
use crate::support::{OURS, Rng, for_seeds, packet};
use dz_common::LIVENESS_PORT;
use dz_common::counters::{Counter, Kind};
use dz_common::ingress::{Fence, Flow, Frame, Link, Received, classify, decode};
use dz_common::packet::State;
use etherparse::UdpSlice;
use parts::{DST, SRC, UdpSum, sound};
use spoiled::cases;

const LINKS: [Link; 2] = [Link::Layer3, Link::Ethernet];
const FENCE: Fence = Fence {
    port: LIVENESS_PORT,
    min_ttl: 2,
};

fn receive(frame: &[u8], link: Link) -> Result<(Flow, Received), Counter> {
    let flow = classify(frame, link, LIVENESS_PORT)?;
    Ok((flow, decode(frame, link, &flow, FENCE)?))
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
                let udp = UdpSlice::from_slice(&ip[20..]).unwrap();
                let header = udp.to_header();
                let right = header.calc_checksum_ipv4_raw(flow.src, flow.dst, udp.payload());
                let whole = udp.length() == 48 && udp.checksum() != 0 && !received.maybe_partial;
                assert!(!whole || Ok(udp.checksum()) == right);
            }
        }
    });
}
