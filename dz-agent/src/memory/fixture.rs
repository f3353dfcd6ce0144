//! What unit tests of the kernel in memory begin with.

use dz_common::LIVENESS_PORT;
use dz_common::control::{OP_START_GROUP, Request};
use dz_common::counters::Counter;
use dz_common::gate::Action;
use dz_common::headers::{self, DATAGRAM_LEN, ETHERTYPE_IPV4, Marks, UdpChecksum};
use dz_common::ingress::Link;
use dz_common::map::{LocalKey, SessionEntry, SessionKey};
use dz_common::packet::{Packet, State, Version};

use super::maps::BpfMaps;
use super::programs::control::control;
use crate::datapath::Settings;
use crate::fixture::{LOCAL, NOW_NS, entry};

/// The peer of the session in [`maps`].
pub(super) const PEER: [u8; 4] = [10, 0, 0, 2];
/// The interface of that session.
pub(super) const IFINDEX: u32 = 7;
/// Its block of counters.
pub(super) const BLOCK: u32 = 1;
/// Ethernet address of the interface.
pub(super) const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// And of the peer's.
pub(super) const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER_DISCR: u32 = 0x5678;

/// Settings with room for a group of sessions.
pub(super) fn settings() -> Settings {
    Settings {
        pin_dir: "/nowhere".into(),
        state_dir: "/nowhere".into(),
        port: LIVENESS_PORT,
        unknown_pass: false,
        max_sessions: 1,
        grace_ns: 30_000_000_000,
        when_down: Action::Drop,
        when_never_up: Action::Pass,
        ttl: 64,
        tos: 0xc0,
        ignore_peer_passive: false,
        route_protocols: [144, 0, 0, 0],
    }
}

/// Maps of an agent that is alive, with one session, in Down.
pub(super) fn maps() -> BpfMaps {
    let mut maps = BpfMaps::new(4);
    maps.set_config(settings().config(1));
    maps.beat(NOW_NS);
    let request = Request {
        op: OP_START_GROUP,
        ..Request::NONE
    };
    assert_eq!(control(&mut maps, &request, NOW_NS), Counter::ControlDone);
    let local = LocalKey {
        ifindex: IFINDEX,
        addr: LOCAL.octets(),
    };
    maps.set_local(&local, BLOCK).unwrap();
    let entry = entry(PEER);
    maps.prepare_slot(entry.slot, entry.key, NOW_NS);
    maps.insert_session(&entry).unwrap();
    maps
}

/// The session in [`maps`].
pub(super) fn session(maps: &BpfMaps) -> SessionEntry {
    maps.session(&entry(PEER).key).unwrap()
}

/// A packet that the peer sends to a session that it knows.
pub(super) fn packet(session: &SessionEntry, state: State) -> Packet {
    Packet {
        state,
        detect_mult: 3,
        my_discr: PEER_DISCR,
        your_discr: session.session.local_discr,
        desired_min_tx_us: 1_000_000,
        required_min_rx_us: 1_000_000,
        passive: false,
        version: Version::new([1, 0, 0, 0]),
        reserved_set: false,
    }
}

/// A frame with a packet to a session.
pub(super) fn frame(to: &SessionKey, packet: &Packet, link: Link) -> Vec<u8> {
    let mut datagram = [0; DATAGRAM_LEN];
    let marks = Marks {
        port: LIVENESS_PORT,
        tos: 0xc0,
        ttl: 64,
    };
    let checksum = UdpChecksum::Full;
    headers::write(&mut datagram, &to.peer, &to.local, marks, packet, checksum);
    match link {
        Link::Layer3 => datagram.to_vec(),
        Link::Ethernet => {
            let ethertype = ETHERTYPE_IPV4.to_be_bytes();
            [&OURS[..], &THEIRS, &ethertype, &datagram].concat()
        }
    }
}
