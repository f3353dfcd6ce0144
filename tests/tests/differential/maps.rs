//! The maps: what fits, what is there already and what is gone, in the kernel and in memory; and how many
//! events wait before one is lost.

use anyhow::{Context, ensure};
use aya::maps::MapError;
use dz_agent::datapath;
use dz_agent::memory::BpfMaps;
use dz_agent::memory::programs::control::control;
use dz_common::control::{OP_ADMIN_DOWN, Request};
use dz_common::counters::NO_BLOCK;
use dz_common::entry::Identity;
use dz_common::map::{LocalKey, SessionEntry, SessionKey};
use dz_common::packet::State;
use dz_common::session::{Session, Timers};
use dz_tests::kernel::Kernel;
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;

use crate::model;
use crate::setup;

/// Operations of a run.
const OPERATIONS: u64 = 20_000;
/// Sessions that there is room for: fewer than there are keys.
const ROOM: u32 = 8;
/// State changes that nobody takes: more than there is room for.
const CHANGES: u32 = 22_000;

pub(crate) fn maps_agree() -> anyhow::Result<()> {
    let (seed, count) = setup::seed_and_count("maps", OPERATIONS)?;
    let mut kernel = Kernel::without_timer("maps", ROOM)?;
    let mut maps = BpfMaps::new(ROOM);
    let mut refused = [0_u32; 2];
    for index in 0..count {
        let errno = one(&mut kernel, &mut maps, &Rng::new(seed, index))
            .with_context(|| format!("operation {index}: replay with DZ_SEED={seed}"))?;
        match errno {
            Some(libc::EEXIST) => refused[0] += 1,
            Some(libc::E2BIG) => refused[1] += 1,
            _ => {}
        }
    }
    println!(
        "maps: {} were there already, {} did not fit",
        refused[0], refused[1]
    );
    ensure!(count < OPERATIONS || !refused.contains(&0), "too few keys");
    Ok(())
}

/// One operation on both; returns what it failed with.
fn one(kernel: &mut Kernel, maps: &mut BpfMaps, rng: &Rng) -> anyhow::Result<Option<i32>> {
    let key = SessionKey {
        ifindex: 3 + rng.below(2) as u32,
        local: [10, 1, 0, 1 + rng.below(2) as u8],
        peer: [10, 9, 0, rng.below(7) as u8],
    };
    let (got, expected) = match rng.below(5) {
        0 | 1 => {
            let entry = entry(key, rng.word());
            (
                errno(kernel.insert_session(&entry))?,
                errno(maps.insert_session(&entry).map_err(Into::into))?,
            )
        }
        2 => {
            let there = model::at(maps, &key).is_some();
            maps.delete_session(&key);
            (
                errno(kernel.delete_session(&key))?,
                (!there).then_some(libc::ENOENT),
            )
        }
        3 => {
            let local = LocalKey {
                ifindex: rng.below(400) as u32,
                addr: key.local,
            };
            (
                errno(kernel.set_local(&local, 1))?,
                errno(maps.set_local(&local, 1).map_err(Into::into))?,
            )
        }
        _ => (None, None),
    };
    ensure!(
        got == expected,
        "{key:?}: expected {expected:?}, got {got:?}"
    );
    let (found, there) = (kernel.session(&key)?, model::at(maps, &key));
    ensure!(found == there, "{key:?}: expected {there:?}, got {found:?}");
    Ok(got)
}

fn entry(key: SessionKey, generation: u32) -> SessionEntry {
    let identity = Identity {
        key,
        slot: 0,
        generation,
        block: 1,
        seed: 1,
    };
    SessionEntry::new(identity, Session::new(Timers::DEFAULT, 1, 1))
}

/// The number that a map's operation failed with.
fn errno<T>(result: anyhow::Result<T>) -> anyhow::Result<Option<i32>> {
    let Err(error) = result else {
        return Ok(None);
    };
    let of_memory = match error.downcast_ref() {
        Some(datapath::MapError::Kernel(error)) => Some(error),
        _ => None,
    };
    match of_memory.or(error.downcast_ref()) {
        Some(MapError::SyscallError(refused)) => Ok(refused.io_error.raw_os_error()),
        _ => Err(error),
    }
}

pub(crate) fn events_agree() -> anyhow::Result<()> {
    let mut kernel = Kernel::without_timer("events", 1)?;
    let mut maps = BpfMaps::new(1);
    let key = SessionKey {
        ifindex: 3,
        local: [10, 1, 0, 1],
        peer: [10, 9, 0, 1],
    };
    let mut up = entry(key, 1);
    up.session.state = State::Up;
    let request = Request {
        op: OP_ADMIN_DOWN,
        key,
        generation: 1,
        ..Request::NONE
    };
    for _ in 0..CHANGES {
        kernel.set_session(&key, &up)?;
        kernel.command(&request)?;
        maps.put_session(&key, &up)?;
        control(&mut maps, &request, monotonic_ns());
    }
    let counted = [kernel.counters(NO_BLOCK)?, maps.counters(NO_BLOCK)?];
    let [got, expected] = counted.map(|counters| (counters.event_emitted, counters.event_lost));
    println!("events: {} emitted, {} lost", got.0, got.1);
    ensure!(got == expected, "expected {expected:?}, got {got:?}");
    ensure!(got.1 != 0, "all of them found room");
    let (got, expected) = (kernel.events()?.len(), maps.events_waiting());
    ensure!(
        got == expected,
        "{expected} wait in memory, {got} in the kernel"
    );
    Ok(())
}
