//! `dz_events`: a ring buffer of the kernel.

use std::collections::VecDeque;

use dz_common::map::Event;

/// Bytes of the ring (`EVENTS_SIZE` in dz-ebpf).
const SIZE: usize = 1 << 20;
/// What a record takes: the kernel puts eight bytes before it (`BPF_RINGBUF_HDR_SZ`).
const RECORD: usize = size_of::<Event>() + 8;

/// Events that nobody has taken yet. They outlive the agent.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    room: usize,
    events: VecDeque<Event>,
}

impl Ring {
    /// Makes an empty one as large as the real one. The kernel keeps one byte free
    /// (`__bpf_ringbuf_reserve`).
    pub(super) const fn new() -> Self {
        Self {
            room: (SIZE - 1) / RECORD,
            events: VecDeque::new(),
        }
    }

    /// Limits the ring to so many events.
    pub(super) const fn set_room(&mut self, room: usize) {
        self.room = room;
    }

    /// Puts an event in. Returns whether there was room.
    pub(super) fn output(&mut self, event: Event) -> bool {
        if self.events.len() >= self.room {
            return false;
        }
        self.events.push_back(event);
        true
    }

    /// Takes the oldest event.
    pub(super) fn take(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns how many events wait.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }
}

#[cfg(test)]
mod tests {
    use dz_common::packet::State;
    use dz_common::session::DownReason;

    use super::*;
    use crate::fixture::entry;

    fn event(sequence: u32) -> Event {
        Event {
            key: entry([10, 0, 0, 1]).key,
            generation: 1,
            at_ns: 2,
            since_ns: 1,
            sequence,
            from: State::Down,
            to: State::Init,
            reason: DownReason::None,
            reserved: 0,
        }
    }

    #[test]
    fn events_come_in_their_order_and_as_many_as_fit() {
        let mut ring = Ring::new();
        ring.set_room(2);
        assert!(ring.output(event(1)));
        assert!(ring.output(event(2)));
        assert!(!ring.output(event(3)));
        assert_eq!(ring.take().map(|event| event.sequence), Some(1));
        assert!(ring.output(event(4)));
        let rest = [ring.take(), ring.take(), ring.take()];
        assert_eq!(rest, [Some(event(2)), Some(event(4)), None]);
    }

    #[test]
    fn it_is_as_large_as_the_real_one() {
        let ring = Ring::new();
        assert_eq!(ring.room, 21_845);
    }
}
