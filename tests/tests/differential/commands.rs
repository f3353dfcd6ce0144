//! Commands: `dz_control` against the decisions of dz-common, put together as `dz-ebpf/src/control.rs`
//! puts them together, on sessions in all kinds of states.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use dz_common::control::{self, Command, NO_SESSION, OP_START_GROUP, REFUSED, Request};
use dz_common::counters::{Counter, Counters, NO_BLOCK};
use dz_common::entry::Identity;
use dz_common::map::{Deadline, Event, MAX_GROUPS, SessionEntry, SessionKey};
use dz_common::session::{Session, Timers};
use dz_tests::kernel::{Kernel, SLOTS};
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;

use crate::scenario::{CLOCK_SLACK_NS, number};
use crate::states::scramble;

/// Commands of a run. So many must have come to every end.
const COMMANDS: u64 = 20_000;
const KEY: SessionKey = SessionKey {
    ifindex: 3,
    local: [10, 1, 0, 1],
    peer: [10, 9, 1, 1],
};
const GENERATION: u32 = 7;
const BLOCK: u32 = 2;
const SLOT: u32 = 5;
/// The ends of a command.
const ENDS: [Counter; 4] = [
    Counter::ControlDone,
    Counter::ControlNoSession,
    Counter::ControlRefused,
    Counter::Fault,
];

/// A session with its slot, and what a command counts and emits.
#[derive(Debug, PartialEq)]
struct Scene {
    entry: SessionEntry,
    slot: Deadline,
    /// What was counted, by block and counter.
    counted: BTreeMap<(u32, &'static str), u64>,
    events: Vec<Event>,
    exit: u32,
}

/// There is no peer to delete: the two ends of a disconnect that differ by it are for unit tests.
pub(crate) fn commands_agree() -> anyhow::Result<()> {
    let seed = number("DZ_SEED")?.unwrap_or_else(monotonic_ns);
    let count = number("DZ_COUNT")?.unwrap_or(COMMANDS);
    println!("commands: DZ_SEED={seed} DZ_COUNT={count}");
    let mut kernel = Kernel::without_timer("commands", 1)?;
    let mut seen = BTreeMap::new();
    for index in 0..count {
        let exit = one(&mut kernel, &Rng::new(seed, index)).with_context(|| {
            format!(
                "command {index}: replay with DZ_SEED={seed} DZ_COUNT={}",
                index + 1
            )
        })?;
        *seen.entry(exit).or_insert(0_u64) += 1;
    }
    println!("commands: exits {seen:?}");
    for end in ENDS {
        let reached = count < COMMANDS || seen.contains_key(&(end as u32));
        ensure!(reached, "no command ended as {}", end.name());
    }
    Ok(())
}

/// One command, in the kernel and on the host; returns its exit.
fn one(kernel: &mut Kernel, rng: &Rng) -> anyhow::Result<u32> {
    let before_ns = monotonic_ns();
    let before = scene(rng, before_ns);
    let request = request(rng);
    kernel.set_session(&KEY, &before.entry)?;
    kernel.set_deadline(SLOT, &before.slot)?;
    let counters = read(kernel)?;
    let exit = kernel.command(&request)?;
    let got = Scene {
        entry: kernel.session(&KEY)?.context("the session is gone")?,
        slot: kernel.deadline(SLOT)?,
        counted: moved(&counters, &read(kernel)?),
        events: kernel.events()?,
        exit,
    };
    // The command's time shows in what it changes.
    let now_ns = got.entry.session.since_ns;
    if got.entry.session.state != before.entry.session.state {
        let ran = before_ns - CLOCK_SLACK_NS..=monotonic_ns() + CLOCK_SLACK_NS;
        ensure!(ran.contains(&now_ns), "{now_ns} is not in {ran:?}");
    }
    let mut expected = before;
    expected.run(&request, now_ns);
    ensure!(
        got == expected,
        "{request:#?}: expected {expected:#?}, got {got:#?}"
    );
    Ok(exit)
}

/// A session in some state, with or without a slot of its own.
fn scene(rng: &Rng, now_ns: u64) -> Scene {
    let identity = Identity {
        key: KEY,
        slot: rng.pick(&[SLOT, SLOT, SLOT, SLOT, SLOTS]),
        generation: GENERATION,
        block: BLOCK,
        seed: rng.word(),
    };
    let mut entry = SessionEntry::new(identity, Session::new(Timers::DEFAULT, 1, now_ns));
    scramble(&mut entry, rng, now_ns);
    entry.detour = rng.word();
    Scene {
        entry,
        slot: Deadline {
            deadline_ns: rng.below(1 << 40),
            key: KEY,
            next_due: rng.word(),
        },
        counted: BTreeMap::new(),
        events: Vec::new(),
        exit: 0,
    }
}

/// Mostly one that means the session.
fn request(rng: &Rng) -> Request {
    let op = rng.below(6) as u32;
    let local = rng.pick(&[KEY.local, KEY.local, KEY.local, [10, 1, 0, 2]]);
    let peer = rng.pick(&[KEY.peer, KEY.peer, KEY.peer, [10, 9, 2, 1]]);
    Request {
        op,
        // No timer is started: it would expire what is being compared.
        index: match op {
            OP_START_GROUP => rng.pick(&[MAX_GROUPS, u32::MAX]),
            _ => rng.word(),
        },
        key: SessionKey { local, peer, ..KEY },
        generation: rng.pick(&[GENERATION, GENERATION, GENERATION, GENERATION + 1]),
        ..Request::NONE
    }
}

impl Scene {
    fn run(&mut self, request: &Request, now_ns: u64) {
        let (block, exit) = match request.command() {
            None => REFUSED,
            Some(Command::StartGroup) => {
                let (end, besides) = control::group_started(false);
                if let Some(counter) = besides {
                    self.count(NO_BLOCK, counter);
                }
                end
            }
            Some(Command::AdminDown) => self.close(request, now_ns).unwrap_or(NO_SESSION),
            Some(Command::Disconnect) => {
                let closed = self.close(request, now_ns).unwrap_or(NO_SESSION);
                control::disconnected(false, closed)
            }
            Some(Command::SetDetour) => self.set_detour(request).unwrap_or(NO_SESSION),
        };
        self.count(block, exit);
        self.exit = exit as u32;
    }

    fn set_detour(&mut self, request: &Request) -> Option<(u32, Counter)> {
        if request.key != KEY {
            return None;
        }
        self.entry.set_detour(request)
    }

    fn close(&mut self, request: &Request, now_ns: u64) -> Option<(u32, Counter)> {
        if request.key.destination() != KEY.destination() {
            return None;
        }
        if self.entry.slot != SLOT {
            return Some((BLOCK, Counter::Fault));
        }
        if request.key != KEY {
            return None;
        }
        let effect = self.entry.close(request, now_ns)?;
        self.slot.deadline_ns = effect.deadline_ns;
        if let Some(next_due) = effect.next_due {
            self.slot.next_due = next_due;
        }
        if let Some(event) = effect.event(KEY, now_ns) {
            if let Some(counter) = Counter::transition(event.from, event.to, event.reason) {
                self.count(BLOCK, counter);
            }
            self.count(NO_BLOCK, Counter::EventEmitted);
            self.events.push(event);
        }
        Some(control::done(effect.block))
    }

    fn count(&mut self, block: u32, counter: Counter) {
        *self.counted.entry((block, counter.name())).or_default() += 1;
    }
}

fn read(kernel: &Kernel) -> anyhow::Result<[(u32, Counters); 2]> {
    let block = |block| anyhow::Ok((block, kernel.counters(block)?));
    Ok([block(NO_BLOCK)?, block(BLOCK)?])
}

fn moved(
    before: &[(u32, Counters); 2],
    after: &[(u32, Counters); 2],
) -> BTreeMap<(u32, &'static str), u64> {
    let mut counted = BTreeMap::new();
    for ((block, before), (_, after)) in before.iter().zip(after) {
        for &counter in Counter::ALL {
            let by = after.get(counter).wrapping_sub(before.get(counter));
            if by != 0 {
                counted.insert((*block, counter.name()), by);
            }
        }
    }
    counted
}
