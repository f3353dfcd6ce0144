//! What reads bytes that others have written, each as a function of these bytes: fuzzers call them (`fuzz/`), and a test calls them
//! with all that fuzzers have found worth keeping (`fuzz/corpus`). A panic is a finding. What is read goes through
//! [`black_box`]: the compiler proves some of these assertions, and then reads nothing.

use std::collections::VecDeque;
use std::hint::black_box;

use dz_common::LIVENESS_PORT;
use dz_common::ingress::{self, Fence, Link};
use dz_common::map::Event;
use dz_common::packet::{PACKET_LEN, Packet};
use zerocopy::TryFromBytes;

use crate::api;
use crate::net::monitor;
use crate::settings::PeersFile;

/// What reads bytes.
pub type Target = fn(&[u8]);

/// Every one, by the name of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 6] = [
    ("packet", packet),
    ("frame", frame),
    ("peers_file", peers_file),
    ("api", api),
    ("netlink", netlink),
    ("events", events),
];

/// Reads a liveness packet. What is read and written is read as the same again.
pub fn packet(bytes: &[u8]) {
    if let Ok(packet) = black_box(Packet::decode(bytes)) {
        let again = Packet::decode_exact(&packet.encode());
        // The reserved bits are written as zero.
        let expected = Packet {
            reserved_set: false,
            ..packet
        };
        assert_eq!(again, Ok(expected));
    }
}

/// Looks for a liveness packet in a frame, which the first byte says the kind of. What is found lies in the frame.
pub fn frame(bytes: &[u8]) {
    let Some((kind, frame)) = bytes.split_first() else {
        return;
    };
    let (link, min_ttl) = match kind % 4 {
        0 => (Link::Layer3, 0),
        1 => (Link::Ethernet, 0),
        2 => (Link::Layer3, 255),
        _ => (Link::Ethernet, 255),
    };
    let Ok(flow) = black_box(ingress::classify(frame, link, LIVENESS_PORT)) else {
        return;
    };
    let after = link.ip_offset() + 20;
    assert!(after + usize::from(flow.ip_payload_len) <= frame.len());
    let fence = Fence {
        port: LIVENESS_PORT,
        min_ttl,
    };
    if let Ok(received) = black_box(ingress::decode(frame, link, &flow, fence)) {
        let payload = &frame[after + 8..][..PACKET_LEN];
        assert_eq!(Packet::decode(payload), Ok(received.packet));
        assert!(flow.ttl >= min_ttl);
    }
}

/// Reads a file of peers. What is accepted is no more than there are lines, and names each peer once.
pub fn peers_file(bytes: &[u8]) {
    let lines = bytes.split(|byte| *byte == b'\n').count();
    match PeersFile::parse(bytes) {
        Ok(file) => {
            assert!(file.peers.len() + file.overrides.len() <= lines);
            for (line, spec) in &file.peers {
                assert!((1..=lines).contains(line));
                assert_eq!(spec.faults(), Vec::<String>::new());
            }
        }
        Err(faults) => assert!(!faults.is_empty()),
    }
}

/// Reads the bodies of requests. What is accepted makes sense, and a request made of it is read as the same again.
pub fn api(bytes: &[u8]) {
    match api::peers_to_connect(bytes) {
        Ok(specs) => assert!(specs.iter().all(|spec| spec.faults().is_empty())),
        Err(refusal) => assert!(!refusal.faults.is_empty()),
    }
    match api::peers_to_disconnect(bytes) {
        Ok(selector) => {
            let again = api::DisconnectRequest::from(&selector).selector();
            assert!(again.is_ok_and(|again| again == selector));
        }
        Err(refusal) => assert!(!refusal.faults.is_empty()),
    }
}

/// Takes a datagram of netlink notifications apart, into at most two events a message.
pub fn netlink(bytes: &[u8]) {
    let mut events = VecDeque::new();
    monitor::parse(bytes, true, &mut events);
    assert!(events.len() <= 2 * bytes.len().div_ceil(16));
}

/// Reads a record of the ring of state changes.
pub fn events(bytes: &[u8]) {
    if let Ok(event) = black_box(Event::try_read_from_bytes(bytes)) {
        let names = (event.from.name(), event.to.name(), event.reason.name());
        assert!(!names.0.is_empty() && !names.1.is_empty() && !names.2.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_fuzzers_have_kept_is_read_without_a_panic() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, target) in TARGETS {
            let files = fs::read_dir(corpus.join(name)).expect(name);
            let inputs: Vec<_> = files
                .map(|file| fs::read(file.unwrap().path()).unwrap())
                .collect();
            assert!(!inputs.is_empty(), "{name} has no corpus");
            for input in &inputs {
                target(input);
            }
        }
    }
}
