//! Detection by deadline groups (`dz-ebpf/src/detect.rs`).

use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::detection;
use dz_common::entry::Effect;
use dz_common::map::{Deadline, NEVER_NS, SLOTS_PER_GROUP};
use dz_common::scan::{Look, Scan};

use super::count::transition;
use crate::memory::maps::BpfMaps;

/// Stores into a session's slot what a deadline or a command has left there, under the session's lock.
pub(super) const fn update(slot: &mut Deadline, effect: &Effect) {
    slot.deadline_ns = effect.deadline_ns;
    if let Some(next_due) = effect.next_due {
        slot.next_due = next_due;
    }
}

/// Makes sure that the group's timer fires by `deadline_ns`, which has been stored into the slot with
/// this number in place of `before_ns`.
pub(super) fn arm(
    maps: &mut BpfMaps,
    slot: u32,
    (before_ns, deadline_ns): (u64, u64),
    now_ns: u64,
) {
    let Some(group) = maps.groups.get((slot / SLOTS_PER_GROUP) as usize) else {
        return;
    };
    let timer = group.timer(maps.config.groups, now_ns);
    if !detection::stored(&timer, before_ns, deadline_ns, now_ns) {
        maps.count(NO_BLOCK, Counter::TimerFailed);
    }
}

/// Initialises a group's timer. Returns whether it is started.
pub(super) fn start_group(maps: &BpfMaps, index: u32, now_ns: u64) -> bool {
    let Some(group) = maps.groups.get(index as usize) else {
        return false;
    };
    group.set_up();
    // Look at every slot soon: on takeover there may be deadlines that nobody watches.
    detection::begin(&group.timer(maps.config.groups, now_ns), now_ns)
}

/// Returns when the next timer fires, ns; [`NEVER_NS`] = none does.
#[must_use]
pub fn next_timer_ns(maps: &BpfMaps) -> u64 {
    let firings = maps.groups.iter().map(|group| group.fires_ns());
    firings.min().unwrap_or(NEVER_NS)
}

/// Fires the timers whose time has come, the earliest first.
pub fn run_timers(maps: &mut BpfMaps, now_ns: u64) {
    loop {
        let firings = (0_u32..).zip(&maps.groups);
        let firings = firings.map(|(index, group)| (group.fires_ns(), index));
        match firings.min() {
            Some((fires_ns, index)) if fires_ns <= now_ns => scan(maps, index, now_ns),
            _ => return,
        }
    }
}

/// The timer's callback: expires what is due in a group and arms the timer again.
fn scan(maps: &mut BpfMaps, index: u32, now_ns: u64) {
    let groups = maps.config.groups;
    let Some(group) = maps.groups.get(index as usize) else {
        return;
    };
    group.fire();
    detection::begin_scan(&group.timer(groups, now_ns));
    let mut scan = Scan::new(now_ns);
    let first = index * SLOTS_PER_GROUP;
    for slot in first..first + SLOTS_PER_GROUP {
        let Some(deadline) = maps.deadlines.get(slot as usize) else {
            break;
        };
        if scan.look(deadline.deadline_ns) == Look::Expire
            && let Some(deadline_ns) = expire(maps, slot, now_ns)
        {
            scan.keep(deadline_ns);
        }
    }
    maps.count(NO_BLOCK, Counter::ScanDone);
    let Some(group) = maps.groups.get(index as usize) else {
        return;
    };
    let timer = group.timer(groups, now_ns);
    if !detection::finish_scan(&timer, scan.earliest_ns(), now_ns) {
        maps.count(NO_BLOCK, Counter::TimerFailed);
    }
}

/// Expires the session of a slot, if there is one; returns the slot's deadline from now on.
fn expire(maps: &mut BpfMaps, index: u32, now_ns: u64) -> Option<u64> {
    let slot = maps.deadlines.get_mut(index as usize)?;
    let key = slot.key;
    let element = maps.sessions.find(&key)?;
    let session = maps.sessions.lock(element, &key, index)?;
    let effect = session.expire_slot(now_ns);
    update(slot, &effect);

    if let Some(event) = effect.event(key, now_ns) {
        transition(maps, effect.block, &event);
    }
    Some(effect.deadline_ns)
}

#[cfg(test)]
mod tests {
    use dz_common::ingress::Link;
    use dz_common::packet::State;
    use dz_common::session::DownReason;

    use super::*;
    use crate::datapath::AttachMode;
    use crate::fixture::NOW_NS;
    use crate::memory::fixture::{BLOCK, IFINDEX, frame, maps, packet, session};
    use crate::memory::programs::receive::{Arrival, receive};

    /// Brings the session Up.
    fn up(maps: &mut BpfMaps, now_ns: u64) {
        let said = packet(&session(maps), State::Init);
        let frame = frame(&session(maps).key, &said, Link::Layer3);
        let arrival = Arrival {
            ifindex: IFINDEX,
            mode: AttachMode::Tc,
            link: Link::Layer3,
            to_host: true,
            tagged: false,
            frame: &frame,
        };
        receive(maps, &arrival, now_ns);
        assert_eq!(session(maps).session.state, State::Up);
        maps.next_event().unwrap();
    }

    #[test]
    fn a_silent_peer_goes_down_at_its_deadline() {
        let mut maps = maps();
        run_timers(&mut maps, NOW_NS + 1_000_000);
        assert_eq!(next_timer_ns(&maps), NEVER_NS, "nothing to watch");
        let up_ns = NOW_NS + 2_000_000;
        up(&mut maps, up_ns);
        let deadline_ns = session(&maps).session.detect_deadline_ns;
        assert_eq!(deadline_ns, up_ns + 3_000_000_000);

        let mut fired = 0;
        let mut last_ns = 0;
        while session(&maps).session.state == State::Up {
            last_ns = next_timer_ns(&maps);
            assert!(last_ns <= deadline_ns);
            run_timers(&mut maps, last_ns - 1);
            assert_eq!(next_timer_ns(&maps), last_ns, "not before");
            run_timers(&mut maps, last_ns);
            fired += 1;
        }
        assert_eq!(last_ns, deadline_ns);
        assert_eq!(fired, 12, "a quarter of a second between scans at most");
        let event = maps.next_event().unwrap();
        assert_eq!((event.to, event.reason), (State::Down, DownReason::Timeout));
        assert_eq!(maps.counters(BLOCK).unwrap().up_to_down_timeout, 1);
        assert_eq!(maps.counters(NO_BLOCK).unwrap().scan_done, fired + 1);
        assert_eq!(maps.deadline(0).unwrap().deadline_ns, NEVER_NS);
        assert_eq!(next_timer_ns(&maps), NEVER_NS);
    }

    #[test]
    fn a_slot_whose_session_is_gone_is_left_alone() {
        let mut maps = maps();
        up(&mut maps, NOW_NS);
        let key = session(&maps).key;
        maps.delete_session(&key);
        let left = *maps.deadline(0).unwrap();
        run_timers(&mut maps, NOW_NS + 10_000_000_000);
        assert_eq!(maps.deadline(0), Some(&left));
        assert_eq!(maps.next_event(), None);
        assert_eq!(next_timer_ns(&maps), NEVER_NS);
    }

    #[test]
    fn a_group_that_does_not_exist_is_not_started() {
        let maps = maps();
        assert!(start_group(&maps, 63, NOW_NS));
        assert!(!start_group(&maps, 64, NOW_NS));
    }

    #[test]
    fn a_timer_that_was_never_started_is_counted_where_it_is_needed() {
        let mut maps = BpfMaps::new(4);
        let never = (NEVER_NS, NOW_NS + 5_000_000_000);
        // What a new map has there reads like a firing in time.
        arm(&mut maps, 0, never, NOW_NS);
        assert_eq!(maps.counters(NO_BLOCK).unwrap().timer_failed, 0);
        detection::begin_scan(&maps.groups[0].timer(1, NOW_NS));
        arm(&mut maps, 0, never, NOW_NS);
        assert_eq!(maps.counters(NO_BLOCK).unwrap().timer_failed, 1);
    }
}
