//! Commands: `dz_control` in the kernel and in memory, on sessions in all kinds of states.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use dz_agent::memory::BpfMaps;
use dz_agent::memory::programs::control::control;
use dz_common::control::{OP_START_GROUP, Request};
use dz_common::counters::{Counter, Counters};
use dz_common::entry::Identity;
use dz_common::map::{Deadline, Event, MAX_GROUPS, SessionEntry, SessionKey};
use dz_common::session::{Mode, Session, Timers};
use dz_tests::kernel::{Kernel, SLOTS};
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;

use crate::model::{self, BLOCKS, Counted, moved};
use crate::scenario::CLOCK_SLACK_NS;
use crate::setup;
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
    counted: Counted,
    events: Vec<Event>,
    exit: u32,
}

/// There is no peer to delete: the two ends of a disconnect that differ by it are for unit tests.
pub(crate) fn commands_agree() -> anyhow::Result<()> {
    let (seed, count) = setup::seed_and_count("commands", COMMANDS)?;
    let mut kernel = Kernel::without_timer("commands", 1)?;
    let mut maps = BpfMaps::new(SLOTS);
    let mut seen = BTreeMap::new();
    for index in 0..count {
        let exit = one(&mut kernel, &mut maps, &Rng::new(seed, index)).with_context(|| {
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

/// One command, in the kernel and in memory; returns its exit.
fn one(kernel: &mut Kernel, maps: &mut BpfMaps, rng: &Rng) -> anyhow::Result<u32> {
    let before_ns = monotonic_ns();
    let (before, slot) = scene(rng, before_ns);
    let request = request(rng);
    kernel.set_session(&KEY, &before)?;
    kernel.set_deadline(SLOT, &slot)?;
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
    if got.entry.session.state != before.session.state {
        let ran = before_ns - CLOCK_SLACK_NS..=monotonic_ns() + CLOCK_SLACK_NS;
        ensure!(ran.contains(&now_ns), "{now_ns} is not in {ran:?}");
    }
    maps.put_session(&KEY, &before)?;
    maps.set_deadline(SLOT, slot);
    let counters = model::counters(maps);
    let exit = control(maps, &request, now_ns) as u32;
    let expected = Scene {
        entry: model::at(maps, &KEY).context("the session is gone")?,
        slot: *maps.deadline(SLOT).context("too few slots")?,
        counted: moved(&counters, &model::counters(maps)),
        events: std::iter::from_fn(|| maps.next_event()).collect(),
        exit,
    };
    ensure!(
        got == expected,
        "{request:#?}: expected {expected:#?}, got {got:#?}"
    );
    Ok(exit)
}

/// A session in some state, with or without a slot of its own, and what is in that slot.
fn scene(rng: &Rng, now_ns: u64) -> (SessionEntry, Deadline) {
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
    let slot = Deadline {
        deadline_ns: rng.below(1 << 40),
        key: KEY,
        next_due: rng.word(),
    };
    (entry, slot)
}

/// Mostly one that means the session.
fn request(rng: &Rng) -> Request {
    let op = rng.below(8) as u32;
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
        timers: Timers {
            desired_min_tx_us: near(rng, Timers::DEFAULT.desired_min_tx_us),
            required_min_rx_us: near(rng, Timers::DEFAULT.required_min_rx_us),
            detect_mult: rng.pick(&[1, 3, 255]),
            mode: rng.pick(&[Mode::Active, Mode::Passive]),
            min_ttl: rng.pick(&[0, 255]),
            ..Timers::DEFAULT
        },
        ..Request::NONE
    }
}

/// One less, the same, or one more.
fn near(rng: &Rng, us: u32) -> u32 {
    us - 1 + rng.below(3) as u32
}

fn read(kernel: &Kernel) -> anyhow::Result<Vec<Counters>> {
    (0..BLOCKS).map(|block| kernel.counters(block)).collect()
}
