//! Receiving and answering (`dz-ebpf/src/{tc,xdp,receive}.rs`).

use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::entry::tells_of_packets;
use dz_common::headers::ETHERNET_LEN;
use dz_common::ingress::{self, Fence, Flow, Frame, Link};
use dz_common::map::{LocalKey, SessionKey};
use dz_common::packet::Packet;
use dz_common::session::Receipt;

use super::count::{changed, tell};
use super::detect::arm;
use super::frame::frame;
use crate::datapath::AttachMode;
use crate::memory::maps::BpfMaps;
use crate::memory::sessions::Element;

/// A frame as it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The interface.
    pub ifindex: u32,
    /// Where our program is on it.
    pub mode: AttachMode,
    /// What frames there start with.
    pub link: Link,
    /// The kernel took it for this host's (`PACKET_HOST`). XDP does not ask.
    pub to_host: bool,
    /// The driver has put a VLAN tag beside it. XDP sees tags in the frame alone.
    pub tagged: bool,
    /// All of it.
    pub frame: &'a [u8],
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the stack, untouched.
    Pass,
    /// It was ours, and is done with.
    Drop,
    /// It has become this one, which leaves by the interface that it came in by.
    Answer {
        /// All of it.
        frame: Vec<u8>,
    },
}

/// A program that has found its session and not yet taken the lock.
#[derive(Clone, Debug)]
pub struct Work {
    element: Element,
    slot: u32,
    block: u32,
    key: SessionKey,
    packet: Packet,
    /// Whether it is too long to be answered where it came in.
    unanswerable: bool,
    link: Link,
    /// On Ethernet, where the frame came from, and our address in it.
    back: ([u8; 6], [u8; 6]),
}

impl Work {
    /// Returns the memory of the session that was found.
    #[must_use]
    pub const fn element(&self) -> Element {
        self.element
    }

    /// Returns the interface.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.key.ifindex
    }

    /// Returns the deadline slot of the session that was found.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.slot
    }
}

/// Runs the program from its beginning to its end.
pub fn receive(maps: &mut BpfMaps, arrival: &Arrival<'_>, now_ns: u64) -> Verdict {
    match begin(maps, arrival) {
        Ok(work) => finish(maps, &work, now_ns),
        Err(verdict) => verdict,
    }
}

/// Runs the program until it would take its session's lock. Others may run before [`finish`]: other
/// packets, timers, and the agent, which may delete the session and give its memory to another one.
///
/// # Errors
/// The verdict over a frame that does not get so far.
pub fn begin(maps: &mut BpfMaps, arrival: &Arrival<'_>) -> Result<Work, Verdict> {
    let (frame, link) = (arrival.frame, arrival.link);
    let flow = classify(maps.config.port, arrival).map_err(|exit| {
        maps.count(NO_BLOCK, exit);
        Verdict::Pass
    })?;
    let key = SessionKey {
        ifindex: arrival.ifindex,
        local: flow.dst,
        peer: flow.src,
    };
    let element = find(maps, &key)?;
    let entry = maps.sessions.at(element);
    let (slot, block) = (entry.slot, entry.block);
    let fence = Fence {
        port: maps.config.port,
        min_ttl: entry.session.timers.min_ttl,
    };
    let received = ingress::decode(frame, link, &flow, fence).map_err(|exit| {
        maps.count(block, exit);
        Verdict::Drop
    })?;
    Ok(Work {
        element,
        slot,
        block,
        key,
        packet: received.packet,
        unanswerable: received.is_long && arrival.mode != AttachMode::Tc,
        link,
        back: back(frame, link),
    })
}

fn classify(port: u16, arrival: &Arrival<'_>) -> Result<Flow, Counter> {
    let flow = ingress::classify(arrival.frame, arrival.link, port)?;
    match arrival.mode {
        AttachMode::Xdp | AttachMode::XdpGeneric => Ok(flow),
        AttachMode::Tc if arrival.tagged => Err(Counter::PassVlan),
        AttachMode::Tc if !arrival.to_host => Err(Counter::PassNotHost),
        AttachMode::Tc => Ok(flow),
    }
}

/// Finds the session of a flow, or what becomes of a datagram without one.
fn find(maps: &mut BpfMaps, key: &SessionKey) -> Result<Element, Verdict> {
    // To another address of ours it is nobody's.
    if let Some(element) = maps.sessions.find(key)
        && maps.sessions.at(element).key.local == key.local
    {
        return Ok(element);
    }
    let held = LocalKey {
        ifindex: key.ifindex,
        addr: key.local,
    };
    let (block, exit, verdict) = match maps.locals.get(&held) {
        None => (NO_BLOCK, Counter::PassNotLocal, Verdict::Pass),
        Some(&block) if maps.config.unknown_pass != 0 => {
            (block, Counter::PassUnknownPeer, Verdict::Pass)
        }
        Some(&block) => (block, Counter::DropUnknownPeer, Verdict::Drop),
    };
    maps.count(block, exit);
    Err(verdict)
}

fn back(frame: &[u8], link: Link) -> ([u8; 6], [u8; 6]) {
    match (link, frame.read::<ETHERNET_LEN>(0)) {
        (Link::Ethernet, Some(&[a, b, c, d, e, f, g, h, i, j, k, l, ..])) => {
            ([g, h, i, j, k, l], [a, b, c, d, e, f])
        }
        _ => ([0; 6], [0; 6]),
    }
}

/// Runs the program from its session's lock to its end.
pub fn finish(maps: &mut BpfMaps, work: &Work, now_ns: u64) -> Verdict {
    let block = work.block;
    let Some(deadline) = maps.deadlines.get_mut(work.slot as usize) else {
        maps.count(block, Counter::Fault);
        return Verdict::Drop;
    };
    let attended = now_ns.saturating_sub(maps.beat_ns) <= maps.config.grace_ns;
    let barred = match (attended, work.unanswerable) {
        (false, _) => Some(Counter::RxUnattended),
        (true, true) => Some(Counter::RxLong),
        (true, false) => None,
    };
    let Some(session) = maps.sessions.lock(work.element, &work.key, work.slot) else {
        maps.count(block, Counter::DropUnknownPeer);
        return Verdict::Drop;
    };
    let ethernet = work.link == Link::Ethernet;
    let (came_from, ours) = work.back;
    session.last_seen_ns = now_ns;
    let before_ns = session.scan_deadline_ns();
    let taken = session.take(&work.packet, now_ns);
    let reachable = !ethernet || session.neighbour != [0; 6];
    let exit = session.reply(taken.receipt, taken.changed, barred, reachable, now_ns);
    let answer = session.answer(exit, work.packet.my_discr, maps.config.version);
    let mut destination = came_from;
    if ethernet {
        if taken.receipt.is_proven() {
            session.neighbour = came_from;
        } else {
            // Whoever sent this may be anybody, and is told nothing.
            destination = session.neighbour;
        }
    }
    let generation = session.generation;
    let tells = tells_of_packets(session.held);
    let deadline_ns = session.scan_deadline_ns();
    deadline.deadline_ns = deadline_ns;
    let answered = exit == Counter::RxAnswered;
    if let Some(next_due) = session.due_stamp(answered, taken.changed, now_ns) {
        deadline.next_due = next_due;
    }

    arm(maps, work.slot, (before_ns, deadline_ns), now_ns);
    if work.packet.reserved_set {
        maps.count(block, Counter::ReservedSet);
    }
    if taken.receipt == Receipt::StaleDown {
        maps.count(block, Counter::StaleDown);
    }
    if taken.changed {
        let event = taken.transition.event(work.key, generation, now_ns);
        changed(maps, block, &event);
        if tells {
            tell(maps, &event);
        }
    }
    maps.count(block, exit);
    match answer {
        None => Verdict::Drop,
        Some(packet) => Verdict::Answer {
            frame: frame(
                &maps.config,
                &work.key,
                &packet,
                work.link,
                (destination, ours),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use dz_common::map::{NEVER_NS, SessionEntry};
    use dz_common::packet::State;

    use super::*;
    use crate::fixture::{NOW_NS, entry};
    use crate::memory::fixture::{self, BLOCK, IFINDEX, OURS, PEER, THEIRS, maps, packet, session};

    fn arrival(frame: &[u8], link: Link) -> Arrival<'_> {
        Arrival {
            ifindex: IFINDEX,
            mode: AttachMode::Tc,
            link,
            to_host: true,
            tagged: false,
            frame,
        }
    }

    fn come(maps: &mut BpfMaps, packet: &Packet, link: Link, now_ns: u64) -> Verdict {
        let frame = fixture::frame(&session(maps).key, packet, link);
        receive(maps, &arrival(&frame, link), now_ns)
    }

    fn answer(verdict: &Verdict, link: Link) -> Packet {
        let Verdict::Answer { frame } = verdict else {
            panic!("{verdict:?}");
        };
        let frame = &frame[..];
        let flow = ingress::classify(frame, link, dz_common::LIVENESS_PORT).unwrap();
        assert_eq!((flow.src, flow.dst), (entry(PEER).key.local, PEER));
        let fence = Fence {
            port: dz_common::LIVENESS_PORT,
            min_ttl: 0,
        };
        ingress::decode(frame, link, &flow, fence).unwrap().packet
    }

    #[test]
    fn a_proven_packet_steps_the_session_and_is_answered() {
        let mut maps = maps();
        let said = packet(&session(&maps), State::Init);
        let verdict = come(&mut maps, &said, Link::Layer3, NOW_NS);
        let answer = answer(&verdict, Link::Layer3);
        assert_eq!(
            (answer.state, answer.your_discr),
            (State::Up, said.my_discr)
        );

        let after = session(&maps);
        assert_eq!(after.session.state, State::Up);
        assert_eq!((after.received, after.answered), (1, 1));
        assert_eq!(after.last_seen_ns, NOW_NS);
        let slot = maps.deadline(after.slot).unwrap();
        assert_eq!(slot.deadline_ns, after.session.detect_deadline_ns);
        assert!(maps.not_due_before(after.slot, NOW_NS).is_some());
        let event = maps.next_event().unwrap();
        assert_eq!((event.from, event.to), (State::Down, State::Up));
        let counters = maps.counters(BLOCK).unwrap();
        assert_eq!((counters.rx_answered, counters.down_to_up), (1, 1));
    }

    #[test]
    fn without_an_agent_nothing_is_answered_after_the_grace() {
        let mut maps = maps();
        let said = packet(&session(&maps), State::Init);
        let grace_ns = maps.config().grace_ns;
        let late_ns = NOW_NS + grace_ns + 1;
        let verdict = come(&mut maps, &said, Link::Layer3, late_ns);
        assert_eq!(verdict, Verdict::Drop);
        assert_eq!(maps.counters(BLOCK).unwrap().rx_unattended, 1);
        assert_eq!(session(&maps).session.state, State::Up, "detection goes on");

        maps.beat(late_ns);
        let said = packet(&session(&maps), State::Up);
        let verdict = come(&mut maps, &said, Link::Layer3, late_ns + grace_ns);
        assert!(matches!(verdict, Verdict::Answer { .. }));
    }

    #[test]
    fn on_ethernet_a_stranger_is_answered_only_where_the_peer_is_known_to_be() {
        let mut maps = maps();
        let stranger = Packet {
            your_discr: 0,
            ..packet(&session(&maps), State::Down)
        };
        let verdict = come(&mut maps, &stranger, Link::Ethernet, NOW_NS);
        assert_eq!(verdict, Verdict::Drop);
        let counters = maps.counters(BLOCK).unwrap();
        assert_eq!(counters.rx_unproven_no_neighbour, 1);

        let said = packet(&session(&maps), State::Init);
        let verdict = come(&mut maps, &said, Link::Ethernet, NOW_NS);
        let Verdict::Answer { frame, .. } = &verdict else {
            panic!("{verdict:?}");
        };
        assert!(frame.starts_with(&[THEIRS, OURS].concat()));
        assert_eq!(answer(&verdict, Link::Ethernet).state, State::Up);
        assert_eq!(session(&maps).neighbour, THEIRS);
    }

    #[test]
    fn what_is_not_for_a_session_goes_where_it_belongs() {
        let mut maps = maps();
        let said = packet(&session(&maps), State::Init);
        let key = session(&maps).key;
        let cases = [
            // Another peer, to an address of ours.
            (
                SessionKey {
                    peer: [10, 0, 0, 9],
                    ..key
                },
                Verdict::Drop,
            ),
            // The peer, to an address that is not.
            (
                SessionKey {
                    local: [10, 0, 0, 8],
                    ..key
                },
                Verdict::Pass,
            ),
        ];
        for (key, verdict) in cases {
            let frame = fixture::frame(&key, &said, Link::Layer3);
            let came = receive(&mut maps, &arrival(&frame, Link::Layer3), NOW_NS);
            assert_eq!(came, verdict, "{key:?}");
        }
        assert_eq!(maps.counters(BLOCK).unwrap().drop_unknown_peer, 1);
        assert_eq!(maps.counters(NO_BLOCK).unwrap().pass_not_local, 1);

        let mut frame = fixture::frame(&key, &said, Link::Layer3);
        frame[30] ^= 1;
        let came = receive(&mut maps, &arrival(&frame, Link::Layer3), NOW_NS);
        assert_eq!(came, Verdict::Drop);
        assert_eq!(maps.counters(BLOCK).unwrap().drop_udp_checksum, 1);
        assert_eq!(session(&maps), entry(PEER), "nothing came of it");
    }

    #[test]
    fn tc_passes_tagged_frames_and_those_for_others() {
        let mut maps = maps();
        let said = packet(&session(&maps), State::Init);
        let frame = fixture::frame(&session(&maps).key, &said, Link::Ethernet);
        let here = arrival(&frame, Link::Ethernet);
        for (mode, verdict) in [(AttachMode::Tc, true), (AttachMode::Xdp, false)] {
            for (to_host, tagged) in [(false, false), (true, true)] {
                let arrival = Arrival {
                    mode,
                    to_host,
                    tagged,
                    ..here
                };
                let came = receive(&mut maps, &arrival, NOW_NS);
                assert_eq!(came == Verdict::Pass, verdict, "{arrival:?}");
            }
        }
        let counters = maps.counters(NO_BLOCK).unwrap();
        assert_eq!((counters.pass_vlan, counters.pass_not_host), (1, 1));
    }

    /// Begins with a packet that would bring the session Up.
    fn begun(maps: &mut BpfMaps) -> Work {
        let said = packet(&session(maps), State::Init);
        let frame = fixture::frame(&session(maps).key, &said, Link::Layer3);
        begin(maps, &arrival(&frame, Link::Layer3)).unwrap()
    }

    #[test]
    fn a_session_that_was_deleted_meanwhile_harms_nobody() {
        let mut maps = maps();
        let work = begun(&mut maps);
        let old = session(&maps);
        maps.delete_session(&old.key);
        let mut new: SessionEntry = entry([10, 0, 0, 3]);
        new.slot = 1;
        maps.prepare_slot(1, new.key, NOW_NS);
        assert_eq!(maps.insert_session(&new).unwrap(), work.element());

        assert_eq!(finish(&mut maps, &work, NOW_NS), Verdict::Drop);
        assert_eq!(maps.session(&new.key), Some(new), "the memory is another's");
        assert_eq!(maps.deadline(1).unwrap().deadline_ns, NEVER_NS);
        assert_eq!(maps.counters(BLOCK).unwrap().drop_unknown_peer, 1);
        assert_eq!(maps.next_event(), None);
    }

    #[test]
    fn a_slot_that_does_not_exist_is_a_fault() {
        let mut maps = maps();
        let key = session(&maps).key;
        let lost = SessionEntry {
            slot: 4,
            ..session(&maps)
        };
        maps.put_session(&key, &lost).unwrap();
        let work = begun(&mut maps);
        assert_eq!(finish(&mut maps, &work, NOW_NS), Verdict::Drop);
        assert_eq!(maps.counters(BLOCK).unwrap().fault, 1);
    }
}
