//! The kernel in memory of dz-agent: the one that the simulator runs the engine over, so that what holds for
//! it here holds there.

use std::collections::BTreeMap;

use dz_agent::datapath::AttachMode;
use dz_agent::memory::BpfMaps;
use dz_agent::memory::programs::receive::{self, Verdict};
use dz_common::counters::{Counter, Counters};
use dz_common::ingress;
use dz_common::map::{Deadline, Event, SessionEntry, SessionKey};

use crate::hook::Hook;

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Counters that moved, with their blocks, and by how much.
pub(crate) type Counted = BTreeMap<(u32, &'static str), u64>;

/// A frame and how it comes in.
pub(crate) struct Arrival {
    pub(crate) hook: Hook,
    pub(crate) ifindex: u32,
    /// Ethernet address of that interface.
    pub(crate) mac: [u8; 6],
    pub(crate) frame: Vec<u8>,
}

/// What becomes of a frame, and of the maps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) verdict: u32,
    /// The frame afterwards: untouched, or the answer.
    pub(crate) frame: Vec<u8>,
    pub(crate) counted: Counted,
    /// What the frame says that it is for, if it says anything.
    pub(crate) key: SessionKey,
    /// What is found there afterwards.
    pub(crate) entry: Option<SessionEntry>,
    /// Its deadline slot afterwards.
    pub(crate) deadline: Option<Deadline>,
    pub(crate) event: Option<Event>,
}

/// What a frame did in memory.
pub(crate) struct Received {
    pub(crate) effect: Effect,
    /// What was found there before.
    pub(crate) before: Option<SessionEntry>,
}

impl Received {
    /// Returns when the kernel's run says that it was, if it came to a session.
    pub(crate) fn recorded_ns(&self) -> Option<u64> {
        let after_ns = self.effect.entry?.last_seen_ns;
        (after_ns != self.before?.last_seen_ns).then_some(after_ns)
    }
}

/// Runs a frame through the program in memory, after the kernel's. `otherwise`: whose session is looked at
/// if the frame says nothing; `recorded` tells the time that the kernel's run recorded in a session.
pub(crate) fn receive(
    maps: &mut BpfMaps,
    arrival: &Arrival,
    otherwise: SessionKey,
    recorded: impl FnOnce(&SessionKey) -> u64,
) -> Received {
    let (hook, link) = (arrival.hook, arrival.hook.link());
    let xdp = hook == Hook::Xdp;
    let flow = ingress::classify(&arrival.frame[..], link, maps.config().port);
    let key = flow.map_or(otherwise, |flow| SessionKey {
        ifindex: arrival.ifindex,
        local: flow.dst,
        peer: flow.src,
    });
    let before = at(maps, &key);
    let counters = counters(maps);
    let came = receive::Arrival {
        ifindex: arrival.ifindex,
        mode: if xdp { AttachMode::Xdp } else { AttachMode::Tc },
        link,
        to_host: match hook {
            // What eth_type_trans makes PACKET_HOST.
            Hook::TcEthernet | Hook::TcTagged => arrival.frame.starts_with(&arrival.mac),
            Hook::TcLayer3NotHost => false,
            Hook::TcLayer3 | Hook::Xdp => true,
        },
        tagged: hook == Hook::TcTagged,
        frame: &arrival.frame,
    };
    let verdict = match receive::begin(maps, &came) {
        Ok(work) => receive::finish(maps, &work, recorded(&key)),
        Err(verdict) => verdict,
    };
    let untouched = arrival.frame.clone();
    let (verdict, frame) = match verdict {
        Verdict::Pass if xdp => (XDP_PASS, untouched),
        Verdict::Pass => (TC_ACT_UNSPEC, untouched),
        Verdict::Drop if xdp => (XDP_DROP, untouched),
        Verdict::Drop => (TC_ACT_SHOT, untouched),
        Verdict::Answer { frame, .. } if xdp => (XDP_TX, frame),
        Verdict::Answer { frame, .. } => (TC_ACT_REDIRECT, frame),
    };
    let entry = at(maps, &key);
    let effect = Effect {
        verdict,
        frame,
        counted: moved(&counters, &self::counters(maps)),
        key,
        entry,
        deadline: entry.and_then(|entry| maps.deadline(entry.slot).copied()),
        event: maps.next_event(),
    };
    Received { effect, before }
}

/// What is found where a key's session would be, whatever it says of itself.
pub(crate) fn at(maps: &BpfMaps, key: &SessionKey) -> Option<SessionEntry> {
    let sessions = maps.sessions();
    sessions.find(key).map(|element| *sessions.at(element))
}

/// Blocks of counters: one per local address, and block 0.
pub(crate) const BLOCKS: u32 = 5;

/// Those blocks in memory.
pub(crate) fn counters(maps: &BpfMaps) -> Vec<Counters> {
    (0..BLOCKS)
        .filter_map(|block| maps.counters(block).ok())
        .collect()
}

/// What was counted between two looks at the same blocks. Scans come when they come.
pub(crate) fn moved(before: &[Counters], after: &[Counters]) -> Counted {
    let mut counted = Counted::new();
    for (block, (before, after)) in (0..).zip(before.iter().zip(after)) {
        if before == after {
            continue;
        }
        for &counter in Counter::ALL {
            let by = after.get(counter).wrapping_sub(before.get(counter));
            if by != 0 && counter != Counter::ScanDone {
                counted.insert((block, counter.name()), by);
            }
        }
    }
    counted
}
