//! The gate, at egress (`dz-ebpf/src/gate.rs`).

use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::gate::{self, Action, Facts};
use dz_common::ingress::Link;
use dz_common::map::{Confined, SessionKey};

use crate::memory::maps::BpfMaps;

/// A packet that is about to leave.
#[derive(Clone, Copy, Debug)]
pub struct Leaving<'a> {
    /// The interface.
    pub ifindex: u32,
    /// What frames there start with.
    pub link: Link,
    /// All of it.
    pub frame: &'a [u8],
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It leaves as if there were no gate.
    Pass,
    /// It does not leave.
    Drop,
    /// It leaves by this interface instead.
    Divert(u32),
}

/// Decides over a packet.
pub fn egress(maps: &mut BpfMaps, leaving: &Leaving<'_>) -> Gate {
    let (block, exit, gate) = decide(maps, leaving);
    maps.count(block, exit);
    gate
}

fn decide(maps: &BpfMaps, leaving: &Leaving<'_>) -> (u32, Counter, Gate) {
    let Leaving {
        ifindex,
        link,
        frame,
    } = *leaving;
    let Some((src, dst)) = gate::addresses(frame, link) else {
        return (NO_BLOCK, Counter::GateNotIpv4, Gate::Pass);
    };
    let key = SessionKey {
        ifindex,
        local: src,
        peer: dst,
    };
    let Some(element) = maps.sessions.find(&key) else {
        return (NO_BLOCK, Counter::GateNoSession, Gate::Pass);
    };
    let entry = maps.sessions.at(element);
    let (block, config) = (entry.block, &maps.config);
    if gate::is_liveness(frame, link, config.port) {
        return (block, Counter::GateLiveness, Gate::Pass);
    }
    let facts = Facts::of(entry, config.ignore_peer_passive != 0);
    match facts.verdict(config) {
        (Action::Pass, exit) => (block, exit, Gate::Pass),
        (Action::Drop, exit) => (block, exit, Gate::Drop),
        (Action::Reroute, exit) => {
            if maps.confined.get(&Confined { addr: src }).is_some() {
                (block, Counter::GateConfined, Gate::Drop)
            } else if entry.detour == 0 || gated(maps, entry.detour, key) {
                (block, Counter::GateNoDetour, Gate::Drop)
            } else {
                (block, exit, Gate::Divert(entry.detour))
            }
        }
    }
}

/// Says whether the interface has a gate for the same peer, which might divert the packet back.
fn gated(maps: &BpfMaps, ifindex: u32, key: SessionKey) -> bool {
    let by_it = SessionKey { ifindex, ..key };
    maps.sessions.find(&by_it).is_some()
}

#[cfg(test)]
mod tests {
    use dz_common::headers::DATAGRAM_LEN;
    use dz_common::packet::State;

    use super::*;
    use crate::memory::fixture::{self, BLOCK, IFINDEX, PEER, maps, packet, session};

    /// A packet of somebody on this host to the peer.
    fn traffic() -> [u8; DATAGRAM_LEN] {
        let mut packet = [0; DATAGRAM_LEN];
        packet[0] = 0x45;
        packet[9] = 1;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&PEER);
        packet
    }

    fn leave(maps: &mut BpfMaps, frame: &[u8]) -> Gate {
        let leaving = Leaving {
            ifindex: IFINDEX,
            link: Link::Layer3,
            frame,
        };
        egress(maps, &leaving)
    }

    /// Puts the session into a state, with so many times Up and a way around.
    fn set(maps: &mut BpfMaps, state: State, ups: u32, detour: u32) {
        let mut entry = session(maps);
        entry.session.state = state;
        entry.session.ups = ups;
        entry.detour = detour;
        maps.put_session(&entry.key, &entry).unwrap();
    }

    #[test]
    fn traffic_follows_the_state() {
        let mut maps = maps();
        for (state, ups, gate) in [
            (State::Down, 0, Gate::Pass),
            (State::Up, 1, Gate::Pass),
            (State::Down, 1, Gate::Drop),
            (State::AdminDown, 1, Gate::Drop),
        ] {
            set(&mut maps, state, ups, 0);
            assert_eq!(leave(&mut maps, &traffic()), gate, "{state:?}");
        }
        let counters = maps.counters(BLOCK).unwrap();
        assert_eq!(
            (
                counters.gate_up,
                counters.gate_dropped,
                counters.gate_never_up_passed
            ),
            (1, 2, 1)
        );
    }

    #[test]
    fn liveness_packets_pass() {
        let mut maps = maps();
        set(&mut maps, State::Down, 1, 0);
        let key = session(&maps).key;
        let backwards = SessionKey {
            local: key.peer,
            peer: key.local,
            ..key
        };
        let said = packet(&session(&maps), State::Down);
        let frame = fixture::frame(&backwards, &said, Link::Layer3);
        assert_eq!(leave(&mut maps, &frame), Gate::Pass);
        assert_eq!(maps.counters(BLOCK).unwrap().gate_liveness, 1);
    }

    #[test]
    fn others_are_none_of_its_business() {
        let mut maps = maps();
        set(&mut maps, State::Down, 1, 0);
        let mut other = traffic();
        other[19] = 99;
        assert_eq!(leave(&mut maps, &other), Gate::Pass);
        assert_eq!(leave(&mut maps, &[0x60; 40]), Gate::Pass);
        let counters = maps.counters(NO_BLOCK).unwrap();
        assert_eq!((counters.gate_no_session, counters.gate_not_ipv4), (1, 1));
    }

    #[test]
    fn a_packet_is_diverted_only_where_no_gate_diverts_it_back() {
        let mut maps = maps();
        let config = *maps.config();
        maps.set_config(dz_common::map::Config {
            when_down: Action::Reroute,
            ..config
        });
        set(&mut maps, State::Down, 1, 0);
        assert_eq!(leave(&mut maps, &traffic()), Gate::Drop);
        set(&mut maps, State::Down, 1, 3);
        let around = leave(&mut maps, &traffic());
        assert_eq!(around, Gate::Divert(3));
        let mut by_it = session(&maps);
        by_it.key.ifindex = 3;
        maps.insert_session(&by_it).unwrap();
        assert_eq!(leave(&mut maps, &traffic()), Gate::Drop, "another gate");
        maps.delete_session(&by_it.key);
        let source = Confined {
            addr: [10, 0, 0, 1],
        };
        maps.confine(&source, IFINDEX).unwrap();
        assert_eq!(leave(&mut maps, &traffic()), Gate::Drop);
        let counters = maps.counters(BLOCK).unwrap();
        assert_eq!(
            (
                counters.gate_no_detour,
                counters.gate_rerouted,
                counters.gate_confined
            ),
            (2, 1, 1)
        );
    }
}
