//! The 40 bytes.

use crate::support::{OURS, Rng, for_seeds, packet};
use dz_common::packet::{PACKET_LEN, Packet, Reject, State, Version};

/// As captured from a deployed client 0.34.0: Up, multiplier 3, 300 ms both ways.
const RECORDED: &str =
    "20c003282dcdcc9811e916c6000493e0000493e000002200000000000000000000000000000000000";

fn recorded() -> [u8; PACKET_LEN] {
    std::array::from_fn(|i| u8::from_str_radix(&RECORDED[2 * i..2 * i + 2], 16).unwrap())
}

fn any_packet(rng: &mut Rng) -> Packet {
    Packet {
        state: rng.pick(&State::ALL),
        detect_mult: rng.byte().max(1),
        my_discr: rng.u32().max(1),
        your_discr: rng.u32(),
        desired_min_tx_us: rng.u32(),
        required_min_rx_us: rng.u32(),
        passive: rng.chance(50),
        version: Version::new([rng.byte(), rng.byte(), rng.byte(), rng.byte()]),
        reserved_set: false,
    }
}

#[test]
fn a_recorded_packet_means_what_its_sender_meant() {
    let expected = Packet {
        state: State::Up,
        detect_mult: 3,
        my_discr: 0x2dcd_cc98,
        your_discr: 0x11e9_16c6,
        desired_min_tx_us: 300_000,
        required_min_rx_us: 300_000,
        passive: false,
        version: Version::new([0, 34, 0, 0]),
        reserved_set: false,
    };
    assert_eq!(Packet::decode(&recorded()), Ok(expected));
    assert_eq!(expected.encode(), recorded());
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for_seeds(20_000, |rng| {
        let packet = any_packet(rng);
        let mut bytes = packet.encode().to_vec();
        assert_eq!(Packet::decode(&bytes), Ok(packet));
        // A longer payload is read by its first 40 bytes.
        bytes.extend((0..rng.below(40)).map(|_| 0xff));
        assert_eq!(Packet::decode(&bytes), Ok(packet));
    });
}

/// Each byte that is checked, each that is ignored, and the order of the checks.
#[test]
fn every_byte_is_checked_or_ignored_as_the_table_says() {
    let sound = packet(State::Init, OURS);
    let with = |changes: &[(usize, u8)]| {
        let mut bytes = sound.encode();
        changes.iter().for_each(|&(at, value)| bytes[at] = value);
        Packet::decode(&bytes)
    };
    for version in (0..8u8).filter(|version| *version != 1) {
        assert_eq!(with(&[(0, version << 5)]), Err(Reject::Version));
    }
    for length in (0..=255).filter(|length| *length != 40) {
        assert_eq!(with(&[(3, length)]), Err(Reject::Length));
    }
    assert_eq!(with(&[(2, 0)]), Err(Reject::ZeroMultiplier));
    let no_discr = [(4, 0), (5, 0), (6, 0), (7, 0)];
    assert_eq!(with(&no_discr), Err(Reject::ZeroDiscriminator));
    for at in 4..8 {
        let mut nearly = no_discr;
        nearly[at - 4].1 = 1;
        assert!(
            with(&nearly).is_ok(),
            "any byte of the discriminator makes it non-zero"
        );
    }
    assert_eq!(
        with(&[(0, 0), (3, 0), (2, 0)]),
        Err(Reject::Version),
        "version first"
    );
    assert_eq!(with(&[(3, 0), (2, 0)]), Err(Reject::Length), "then length");

    assert_eq!(
        with(&[(0, 0x3f)]),
        Ok(sound),
        "low bits of the version byte"
    );
    assert_eq!(
        with(&[(1, 0x80 | 0x3f)]),
        Ok(sound),
        "low bits of the state byte"
    );
    assert_eq!(with(&[(20, 0xfe)]), Ok(sound), "unknown flags");
    for at in 25..PACKET_LEN {
        assert_eq!(
            with(&[(at, 1)]),
            Ok(Packet {
                reserved_set: true,
                ..sound
            }),
            "reserved {at}"
        );
    }
}

#[test]
fn short_payloads_are_short_whatever_they_hold() {
    for length in 0..PACKET_LEN {
        assert_eq!(Packet::decode(&recorded()[..length]), Err(Reject::Short));
        assert_eq!(Packet::decode(&vec![0xff; length]), Err(Reject::Short));
    }
}

/// Random bytes never panic, and are accepted exactly when a plain reading of the rules says so.
#[test]
fn random_bytes_are_refused_or_understood() {
    let mut accepted = 0;
    for seed in 0..200_000 {
        let rng = &mut Rng::new(seed);
        let mut bytes: Vec<u8> = (0..rng.below(64)).map(|_| rng.byte()).collect();
        // Most random bytes fail at the first check: repair some.
        for (at, value) in [(0, 0x20), (3, 40)] {
            if rng.chance(90) && bytes.len() > at {
                bytes[at] = value;
            }
        }
        let sound = bytes.len() >= 40
            && bytes[0] / 32 == 1
            && bytes[3] == 40
            && bytes[2] != 0
            && bytes[4..8].iter().any(|byte| *byte != 0);
        let decoded = Packet::decode(&bytes);
        assert_eq!(
            decoded.is_ok(),
            sound,
            "replay with seed {seed}: {bytes:02x?}"
        );
        if let Ok(packet) = decoded {
            accepted += 1;
            let again = Packet {
                reserved_set: false,
                ..packet
            };
            assert_eq!(Packet::decode(&packet.encode()), Ok(again));
        }
    }
    assert!(
        accepted > 10_000,
        "{accepted} accepted: the test lost its point"
    );
}

#[test]
fn versions_read_as_the_deployed_client_writes_them() {
    let channels = [
        (0, ""),
        (1, "-alpha"),
        (2, "-beta"),
        (3, "-rc"),
        (4, "-dev"),
        (5, "-other"),
    ];
    for (channel, suffix) in channels.into_iter().chain([(255, "-other")]) {
        assert_eq!(
            Version::new([0, 34, 255, channel]).to_string(),
            format!("0.34.255{suffix}")
        );
    }
}
