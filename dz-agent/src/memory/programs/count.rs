//! Counting state changes (`dz-ebpf/src/count.rs`).

use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::map::Event;

use crate::memory::maps::BpfMaps;

/// Counts a state change.
pub(super) fn changed(maps: &mut BpfMaps, block: u32, event: &Event) {
    if let Some(counter) = Counter::transition(event.from, event.to, event.reason) {
        maps.count(block, counter);
    }
}

/// Counts a state change and tells the agent, if there is room for that.
pub(super) fn transition(maps: &mut BpfMaps, block: u32, event: &Event) {
    changed(maps, block, event);
    tell(maps, event);
}

/// Tells the agent of a state change, if there is room for that.
pub(super) fn tell(maps: &mut BpfMaps, event: &Event) {
    let emitted = if maps.events.output(*event) {
        Counter::EventEmitted
    } else {
        Counter::EventLost
    };
    maps.count(NO_BLOCK, emitted);
}

#[cfg(test)]
mod tests {
    use dz_common::packet::State;
    use dz_common::session::DownReason;

    use super::*;
    use crate::fixture::entry;

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut maps = BpfMaps::new(1);
        maps.set_event_room(1);
        let event = Event {
            key: entry([10, 0, 0, 2]).key,
            generation: 1,
            at_ns: 2,
            since_ns: 1,
            sequence: 1,
            from: State::Up,
            to: State::Down,
            reason: DownReason::Timeout,
            reserved: 0,
        };
        for _ in 0..3 {
            transition(&mut maps, 4, &event);
        }
        let counters = maps.counters(NO_BLOCK).unwrap();
        assert_eq!((counters.event_emitted, counters.event_lost), (1, 2));
        assert_eq!(maps.counters(4).unwrap().up_to_down_timeout, 3);
        assert_eq!(maps.next_event(), Some(event));
        assert_eq!(maps.next_event(), None);
    }
}
