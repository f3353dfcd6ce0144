//! The host build of the handler: the functions of dz-common that the kernel programs call, put
//! together as `dz-ebpf/src/{receive,tc,xdp}.rs` put them together.

use std::collections::BTreeMap;

use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::headers::{self, DATAGRAM_LEN, ETHERNET_LEN, Marks, UdpChecksum};
use dz_common::ingress::{self, Fence, Flow, Frame, Link};
use dz_common::map::{Config, Deadline, Event, LocalKey, SessionEntry, SessionKey};
use dz_common::packet::Packet;
use dz_common::session::Receipt;

use crate::hook::Hook;

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// What is in the maps.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) beat_ns: u64,
    pub(crate) locals: BTreeMap<LocalKey, u32>,
    pub(crate) sessions: BTreeMap<SessionKey, SessionEntry>,
    pub(crate) deadlines: Vec<Deadline>,
}

/// A frame and how it comes in.
pub(crate) struct Arrival {
    pub(crate) hook: Hook,
    pub(crate) ifindex: u32,
    /// Ethernet address of that interface.
    pub(crate) mac: [u8; 6],
    pub(crate) frame: Vec<u8>,
}

/// What becomes of a frame, and of the world.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) verdict: u32,
    /// The frame afterwards: untouched, or the answer.
    pub(crate) frame: Vec<u8>,
    /// Counters that moved, with their blocks, and by how much.
    pub(crate) counted: BTreeMap<(u32, &'static str), u64>,
    /// The session that the frame was for.
    pub(crate) key: Option<SessionKey>,
    /// That session afterwards.
    pub(crate) entry: Option<SessionEntry>,
    /// Its deadline slot afterwards.
    pub(crate) deadline: Option<Deadline>,
    pub(crate) event: Option<Event>,
}

/// Everything but the verdict that can be said of a frame on its way.
#[derive(Default)]
struct Trail {
    counted: BTreeMap<(u32, &'static str), u64>,
    key: Option<SessionKey>,
    entry: Option<SessionEntry>,
    deadline: Option<Deadline>,
    event: Option<Event>,
}

enum Verdict {
    Pass,
    Drop,
    Answer(Vec<u8>),
}

impl World {
    /// Runs a frame through the handler. `recorded` tells the time that the kernel's run recorded
    /// in a session.
    pub(crate) fn receive(
        &self,
        arrival: &Arrival,
        recorded: impl FnOnce(&SessionKey) -> u64,
    ) -> Effect {
        let mut trail = Trail::default();
        let verdict = self.ingress(arrival, recorded, &mut trail);
        let xdp = arrival.hook == Hook::Xdp;
        let (verdict, frame) = match verdict {
            Verdict::Pass if xdp => (XDP_PASS, arrival.frame.clone()),
            Verdict::Pass => (TC_ACT_UNSPEC, arrival.frame.clone()),
            Verdict::Drop if xdp => (XDP_DROP, arrival.frame.clone()),
            Verdict::Drop => (TC_ACT_SHOT, arrival.frame.clone()),
            Verdict::Answer(frame) if xdp => (XDP_TX, frame),
            Verdict::Answer(frame) => (TC_ACT_REDIRECT, frame),
        };
        Effect {
            verdict,
            frame,
            counted: trail.counted,
            key: trail.key,
            entry: trail.entry,
            deadline: trail.deadline,
            event: trail.event,
        }
    }

    fn ingress(
        &self,
        arrival: &Arrival,
        recorded: impl FnOnce(&SessionKey) -> u64,
        trail: &mut Trail,
    ) -> Verdict {
        let (frame, link) = (&arrival.frame[..], arrival.hook.link());
        let flow = match self.classify(arrival) {
            Ok(flow) => flow,
            Err(exit) => {
                trail.count(NO_BLOCK, exit);
                return Verdict::Pass;
            }
        };
        let key = SessionKey {
            ifindex: arrival.ifindex,
            local: flow.dst,
            peer: flow.src,
        };
        let Some(entry) = self.sessions.get(&key) else {
            return self.without_session(&key, trail);
        };
        let block = entry.block;
        let slot = self.deadlines.get(entry.slot as usize);
        trail.key = Some(key);
        trail.entry = Some(*entry);
        trail.deadline = slot.copied();
        let fence = Fence {
            port: self.config.port,
            min_ttl: entry.session.timers.min_ttl,
        };
        let received = match ingress::decode(frame, link, &flow, fence) {
            Ok(received) => received,
            Err(exit) => {
                trail.count(block, exit);
                return Verdict::Drop;
            }
        };
        if slot.is_none() {
            trail.count(block, Counter::Fault);
            return Verdict::Drop;
        }
        if entry.key != key {
            trail.count(block, Counter::DropUnknownPeer);
            return Verdict::Drop;
        }
        let now_ns = recorded(&key);
        match self.handle(arrival, *entry, &received.packet, now_ns, trail) {
            Some((packet, to)) => Verdict::Answer(self.answer(arrival, &key, &packet, to)),
            None => Verdict::Drop,
        }
    }

    fn classify(&self, arrival: &Arrival) -> Result<Flow, Counter> {
        let frame = &arrival.frame[..];
        let flow = ingress::classify(frame, arrival.hook.link(), self.config.port)?;
        match arrival.hook {
            Hook::Xdp | Hook::TcLayer3 => Ok(flow),
            Hook::TcTagged => Err(Counter::PassVlan),
            Hook::TcLayer3NotHost => Err(Counter::PassNotHost),
            // What eth_type_trans makes PACKET_HOST.
            Hook::TcEthernet if frame.starts_with(&arrival.mac) => Ok(flow),
            Hook::TcEthernet => Err(Counter::PassNotHost),
        }
    }

    fn without_session(&self, key: &SessionKey, trail: &mut Trail) -> Verdict {
        let local = LocalKey {
            ifindex: key.ifindex,
            addr: key.local,
        };
        match self.locals.get(&local) {
            None => {
                trail.count(NO_BLOCK, Counter::PassNotLocal);
                Verdict::Pass
            }
            Some(block) if self.config.unknown_pass != 0 => {
                trail.count(*block, Counter::PassUnknownPeer);
                Verdict::Pass
            }
            Some(block) => {
                trail.count(*block, Counter::DropUnknownPeer);
                Verdict::Drop
            }
        }
    }

    /// Runs a datagram through its session; returns what to answer, and on Ethernet whom.
    fn handle(
        &self,
        arrival: &Arrival,
        mut entry: SessionEntry,
        packet: &Packet,
        now_ns: u64,
        trail: &mut Trail,
    ) -> Option<(Packet, [u8; 6])> {
        let attended = now_ns.saturating_sub(self.beat_ns) <= self.config.grace_ns;
        let ethernet = arrival.hook.link() == Link::Ethernet;
        let reachable = !ethernet || entry.neighbour != [0; 6];
        entry.last_seen_ns = now_ns;
        let taken = entry.take(packet, now_ns);
        let exit = entry.reply(taken.receipt, taken.changed, attended, reachable, now_ns);
        let answer = entry.answer(exit, packet.my_discr, self.config.version);
        if let Some(source) = arrival.frame.read::<6>(6)
            && ethernet
            && taken.receipt.is_proven()
        {
            entry.neighbour = *source;
        }
        if let Some(deadline) = &mut trail.deadline {
            deadline.deadline_ns = entry.scan_deadline_ns();
            let answered = exit == Counter::RxAnswered;
            if let Some(stamp) = entry.due_stamp(answered, taken.changed, now_ns) {
                deadline.next_due = stamp;
            }
        }
        let block = entry.block;
        trail.count(block, exit);
        for (counter, seen) in [
            (Counter::ReservedSet, packet.reserved_set),
            (Counter::StaleDown, taken.receipt == Receipt::StaleDown),
        ] {
            if seen {
                trail.count(block, counter);
            }
        }
        if taken.changed {
            let change = taken.transition;
            if let Some(counter) = Counter::transition(change.from, change.to, change.reason) {
                trail.count(block, counter);
            }
            trail.count(NO_BLOCK, Counter::EventEmitted);
            trail.event = Some(change.event(entry.key, entry.generation, now_ns));
        }
        trail.entry = Some(entry);
        answer.map(|packet| (packet, entry.neighbour))
    }

    fn answer(
        &self,
        arrival: &Arrival,
        key: &SessionKey,
        packet: &Packet,
        neighbour: [u8; 6],
    ) -> Vec<u8> {
        let mut datagram = [0; DATAGRAM_LEN];
        // A packet of BPF_PROG_TEST_RUN is never CHECKSUM_PARTIAL, whatever its field looks like.
        let checksum = UdpChecksum::Full;
        let marks = Marks::of(&self.config);
        headers::write(
            &mut datagram,
            &key.local,
            &key.peer,
            marks,
            packet,
            checksum,
        );
        let mut frame = Vec::with_capacity(ETHERNET_LEN + DATAGRAM_LEN);
        if arrival.hook.link() == Link::Ethernet {
            frame.extend_from_slice(&neighbour);
            frame.extend_from_slice(&arrival.frame[..6]);
            frame.extend_from_slice(&arrival.frame[12..ETHERNET_LEN]);
        }
        frame.extend_from_slice(&datagram);
        frame
    }

    /// Takes note of what a frame did.
    pub(crate) fn apply(&mut self, effect: &Effect) {
        let (Some(key), Some(entry)) = (effect.key, effect.entry) else {
            return;
        };
        self.sessions.insert(key, entry);
        if let (Some(slot), Some(deadline)) =
            (self.deadlines.get_mut(entry.slot as usize), effect.deadline)
        {
            *slot = deadline;
        }
    }
}

impl Trail {
    fn count(&mut self, block: u32, counter: Counter) {
        *self.counted.entry((block, counter.name())).or_default() += 1;
    }
}
