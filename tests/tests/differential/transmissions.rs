//! Our clock: `dz_transmit` in the kernel and in memory, on sessions in all kinds of states.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use dz_agent::memory::BpfMaps;
use dz_agent::memory::programs::transmit::transmit;
use dz_common::counters::{Counter, Counters};
use dz_common::entry::Identity;
use dz_common::map::{DUE_ETHERNET, DUE_FORCE, Due, SessionEntry, SessionKey};
use dz_common::session::{NS_PER_US, Session, Timers};
use dz_tests::kernel::{Kernel, SLOTS};
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;

use crate::model::{self, BLOCKS, moved};
use crate::scenario::CLOCK_SLACK_NS;
use crate::setup;
use crate::states::scramble;

/// Turns of a run. So many must have come to every end.
const TURNS: u64 = 20_000;
const LOCAL: [u8; 4] = [10, 1, 0, 1];
const PEER: [u8; 4] = [10, 9, 1, 1];
const GENERATION: u32 = 7;
const BLOCK: u32 = 2;
/// No interface has this index.
const NO_INTERFACE: u32 = 99_999;
/// The ends of a turn.
const ENDS: [Counter; 5] = [
    Counter::TxOriginated,
    Counter::TxNotDue,
    Counter::TxNoSession,
    Counter::TxNoNeighbour,
    Counter::TxFailed,
];

pub(crate) fn transmissions_agree() -> anyhow::Result<()> {
    let (seed, count) = setup::seed_and_count("transmissions", TURNS)?;
    let netns = setup::pair("transmissions")?;
    let ifindex = netns.ifindex("dz0")?;
    let mut kernel = Kernel::without_timer("transmissions", 2)?;
    let config = setup::config();
    kernel.set_config(&config)?;
    let mut maps = BpfMaps::new(SLOTS);
    maps.set_config(config);
    let mut seen = BTreeMap::new();
    // The program looks interfaces up in the namespace of the thread that runs it.
    netns.run(|| -> anyhow::Result<()> {
        for index in 0..count {
            let rng = Rng::new(seed, index);
            let exit = one(&mut kernel, &mut maps, ifindex, &rng).with_context(|| {
                format!(
                    "turn {index}: replay with DZ_SEED={seed} DZ_COUNT={}",
                    index + 1
                )
            })?;
            *seen.entry(exit).or_insert(0_u64) += 1;
        }
        Ok(())
    })?;
    println!("transmissions: exits {seen:?}");
    for end in ENDS {
        let reached = count < TURNS || seen.contains_key(&(end as u32));
        ensure!(reached, "no turn ended as {}", end.name());
    }
    Ok(())
}

/// One turn, in the kernel and in memory; returns its exit.
fn one(kernel: &mut Kernel, maps: &mut BpfMaps, ifindex: u32, rng: &Rng) -> anyhow::Result<u32> {
    let before_ns = monotonic_ns();
    let key = SessionKey {
        ifindex: rng.pick(&[ifindex, ifindex, ifindex, NO_INTERFACE]),
        local: LOCAL,
        peer: PEER,
    };
    let before = entry(rng, key, before_ns);
    let mut due = due(rng, key);
    kernel.set_session(&key, &before)?;
    let counters = read(kernel)?;
    let (got, frame) = kernel.transmit(&due)?;
    let after_ns = monotonic_ns();
    let got_entry = kernel.session(&key)?.context("the session is gone")?;

    // The time of the run shows in what it leaves; if nothing was due, nothing was due before either.
    let now_ns = if got_entry.originated != before.originated {
        got_entry.session.last_tx_ns
    } else if got.exit == Counter::TxNoNeighbour as u32 {
        got.next_due_ns - u64::from(before.session.tx_interval_us()) * NS_PER_US
    } else {
        before_ns
    };
    let ran = before_ns - CLOCK_SLACK_NS..=after_ns + CLOCK_SLACK_NS;
    ensure!(ran.contains(&now_ns), "{now_ns} is not in {ran:?}");
    maps.put_session(&key, &before)?;
    let counted = model::counters(maps);
    let mut sent = None;
    transmit(maps, &mut due, now_ns, |_, outgoing| {
        sent = Some(outgoing.frame);
        key.ifindex == ifindex
    });
    if let Some(sent) = sent {
        ensure!(frame == sent, "another frame");
    }
    let entry = model::at(maps, &key).context("the session is gone")?;
    if due.exit == Counter::TxNotDue as u32 {
        let latest_ns = entry.session.next_due_ns(after_ns + CLOCK_SLACK_NS);
        ensure!(
            (due.next_due_ns..=latest_ns).contains(&got.next_due_ns),
            "{} is not in {}..={latest_ns}",
            got.next_due_ns,
            due.next_due_ns
        );
        due.next_due_ns = got.next_due_ns;
    }
    ensure!(got == due, "expected {due:#?}, got {got:#?}");
    ensure!(
        got_entry == entry,
        "{due:#?}: expected {entry:#?}, got {got_entry:#?}"
    );
    let expected = moved(&counted, &model::counters(maps));
    let counted = moved(&counters, &read(kernel)?);
    ensure!(
        counted == expected,
        "expected {expected:?}, got {counted:?}"
    );
    Ok(got.exit)
}

fn entry(rng: &Rng, key: SessionKey, now_ns: u64) -> SessionEntry {
    let identity = Identity {
        key,
        slot: 0,
        generation: GENERATION,
        block: BLOCK,
        seed: rng.word(),
    };
    let mut entry = SessionEntry::new(identity, Session::new(Timers::DEFAULT, 1, now_ns));
    scramble(&mut entry, rng, now_ns);
    entry
}

/// Mostly one that means the session.
fn due(rng: &Rng, key: SessionKey) -> Due {
    let local = rng.pick(&[LOCAL, LOCAL, LOCAL, LOCAL, LOCAL, [10, 1, 0, 2]]);
    let peer = rng.pick(&[PEER, PEER, PEER, PEER, PEER, [10, 9, 2, 1]]);
    Due {
        key: SessionKey { local, peer, ..key },
        generation: rng.pick(&[GENERATION, GENERATION, GENERATION, GENERATION + 1]),
        flags: rng.pick(&[0, 0, DUE_ETHERNET, DUE_ETHERNET]) | rng.pick(&[0, 0, DUE_FORCE]),
        exit: u32::MAX,
        next_due_ns: u64::MAX,
        destination: rng.pick(&[[0; 6], [2, 0xdb, 0, 0, 7, 8]]),
        source: [2, 0xdb, 0, 0, 7, 9],
        reserved: 0,
    }
}

fn read(kernel: &Kernel) -> anyhow::Result<Vec<Counters>> {
    (0..BLOCKS).map(|block| kernel.counters(block)).collect()
}
