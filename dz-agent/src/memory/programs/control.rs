//! Commands of the agent to live sessions (`dz-ebpf/src/control.rs`).

use dz_common::control::{self, Command, NO_SESSION, REFUSED, Request};
use dz_common::counters::{Counter, NO_BLOCK};

use super::count::transition;
use super::detect::{start_group, update};
use crate::memory::maps::BpfMaps;

/// Carries out a request; returns its exit.
pub fn control(maps: &mut BpfMaps, request: &Request, now_ns: u64) -> Counter {
    let (block, exit) = match request.command() {
        Some(Command::StartGroup) => {
            let (end, besides) = control::group_started(start_group(maps, request.index, now_ns));
            if let Some(counter) = besides {
                maps.count(NO_BLOCK, counter);
            }
            end
        }
        Some(Command::AdminDown) => admin_down(maps, request, now_ns).unwrap_or(NO_SESSION),
        Some(Command::Disconnect) => {
            let deleted = maps.peers.delete(&request.peer).is_ok();
            let closed = admin_down(maps, request, now_ns).unwrap_or(NO_SESSION);
            control::disconnected(deleted, closed)
        }
        Some(Command::SetDetour) => set_detour(maps, request).unwrap_or(NO_SESSION),
        Some(Command::SetTimers) => set_timers(maps, request).unwrap_or(NO_SESSION),
        Some(Command::Hold) => hold(maps, request).unwrap_or(NO_SESSION),
        None => REFUSED,
    };
    maps.count(block, exit);
    exit
}

fn set_detour(maps: &mut BpfMaps, request: &Request) -> Option<(u32, Counter)> {
    let element = maps.sessions.find(&request.key)?;
    let slot = maps.sessions.at(element).slot;
    let session = maps.sessions.lock(element, &request.key, slot)?;
    session.set_detour(request)
}

fn set_timers(maps: &mut BpfMaps, request: &Request) -> Option<(u32, Counter)> {
    let element = maps.sessions.find(&request.key)?;
    let slot = maps.sessions.at(element).slot;
    let session = maps.sessions.lock(element, &request.key, slot)?;
    session.set_timers(request)
}

fn hold(maps: &mut BpfMaps, request: &Request) -> Option<(u32, Counter)> {
    let element = maps.sessions.find(&request.key)?;
    let slot = maps.sessions.at(element).slot;
    let session = maps.sessions.lock(element, &request.key, slot)?;
    session.hold(request)
}

fn admin_down(maps: &mut BpfMaps, request: &Request, now_ns: u64) -> Option<(u32, Counter)> {
    let element = maps.sessions.find(&request.key)?;
    let entry = maps.sessions.at(element);
    let (slot, block) = (entry.slot, entry.block);
    let Some(deadline) = maps.deadlines.get_mut(slot as usize) else {
        return Some((block, Counter::Fault));
    };
    let session = maps.sessions.lock(element, &request.key, slot)?;
    let effect = session.close(request, now_ns)?;
    update(deadline, &effect);

    if let Some(event) = effect.event(request.key, now_ns) {
        transition(maps, effect.block, &event);
    }
    Some(control::done(effect.block))
}

#[cfg(test)]
mod tests {
    use dz_common::control::{
        OP_ADMIN_DOWN, OP_DISCONNECT, OP_HOLD, OP_SET_DETOUR, OP_START_GROUP,
    };
    use dz_common::map::{Origin, Peer, PeerKey, SessionEntry};
    use dz_common::packet::State;
    use dz_common::session::Timers;

    use super::*;
    use crate::fixture::NOW_NS;
    use crate::memory::fixture::{BLOCK, PEER, maps, session};

    const NAME: PeerKey = PeerKey {
        ifname: [b'x'; 16],
        peer: PEER,
    };

    fn request(entry: &SessionEntry, op: u32, index: u32) -> Request {
        Request {
            op,
            index,
            key: entry.key,
            generation: entry.generation,
            peer: NAME,
            ..Request::NONE
        }
    }

    fn with_peer() -> BpfMaps {
        let mut maps = maps();
        let peer = Peer {
            local: [10, 0, 0, 1],
            via: [0; 4],
            timers: Timers::DEFAULT,
            origin: Origin::Api,
            left_out: 0,
            reserved: [0; 2],
        };
        maps.set_peer(&NAME, &peer).unwrap();
        maps
    }

    #[test]
    fn a_disconnect_deletes_the_peer_and_closes_the_session() {
        let mut maps = with_peer();
        let disconnect = request(&session(&maps), OP_DISCONNECT, 0);
        assert_eq!(
            control(&mut maps, &disconnect, NOW_NS),
            Counter::ControlDone
        );
        assert_eq!(maps.peers().count(), 0);
        assert_eq!(session(&maps).session.state, State::AdminDown);
        let event = maps.next_event().unwrap();
        assert_eq!((event.from, event.to), (State::Down, State::AdminDown));
        let counters = maps.counters(BLOCK).unwrap();
        assert_eq!((counters.control_done, counters.down_to_admin_down), (1, 1));
    }

    #[test]
    fn without_a_session_the_peer_is_deleted_all_the_same() {
        let mut maps = with_peer();
        let disconnect = request(&session(&maps), OP_DISCONNECT, 0);
        let key = session(&maps).key;
        maps.delete_session(&key);
        let ends = [Counter::ControlDone, Counter::ControlNoSession];
        for end in ends {
            assert_eq!(control(&mut maps, &disconnect, NOW_NS), end);
        }
        assert_eq!(maps.peers().count(), 0);
    }

    #[test]
    fn another_generation_is_left_alone() {
        let mut maps = with_peer();
        let before = session(&maps);
        for op in [OP_ADMIN_DOWN, OP_SET_DETOUR, OP_HOLD] {
            let mut request = request(&before, op, 4);
            request.generation += 1;
            let exit = control(&mut maps, &request, NOW_NS);
            assert_eq!(exit, Counter::ControlNoSession);
        }
        assert_eq!(session(&maps), before);
        assert_eq!(maps.peers().count(), 1);
    }

    #[test]
    fn a_detour_is_named() {
        let mut maps = maps();
        let request = request(&session(&maps), OP_SET_DETOUR, 9);
        assert_eq!(control(&mut maps, &request, NOW_NS), Counter::ControlDone);
        assert_eq!(session(&maps).detour, 9);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let mut maps = maps();
        let unknown = request(&session(&maps), 77, 0);
        assert_eq!(
            control(&mut maps, &unknown, NOW_NS),
            Counter::ControlRefused
        );
        let no_group = request(&session(&maps), OP_START_GROUP, 64);
        assert_eq!(
            control(&mut maps, &no_group, NOW_NS),
            Counter::ControlRefused
        );
        let counters = maps.counters(NO_BLOCK).unwrap();
        assert_eq!((counters.control_refused, counters.timer_failed), (2, 1));
    }
}
