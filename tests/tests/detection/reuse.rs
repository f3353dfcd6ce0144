//! Slots and hash elements given to other sessions while programs run frames for the old ones.
//!
//! The map holds exactly as many sessions as there are, so every insertion gets an element that one
//! of the last deletions left. As the agent does, a grace period lies between the two.
//!
//! What this cannot show is whether the checks of key and slot under the lock work: a program would
//! have to be caught between its look-up and the lock by a deletion *and* the next insertion, which
//! the grace period rules out. Tried: programs without the checks pass; with a loop of some
//! microseconds put before the lock they still pass; only without the grace period, too, does this
//! test fail (a session that nobody sent anything to is changed). So it is the grace period that is
//! tested here; the slot's check has its test in `torn`, the key's is a second line of defence.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dz_common::counters::Counter;
use dz_common::map::{Deadline, SessionEntry, SessionKey};
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::kernel::Kernel;
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;

use crate::bench::{Sender, entry, frame, free, insert, kernel, key, peer_discr, seed, timers};
use crate::verdicts::LOST;

const SESSIONS: u16 = 16;
/// Rounds; each gives every slot and every element to another session twice.
const ROUNDS: u32 = 120;
const THREADS: u64 = 2;
/// So many frames run between two changes.
const FRAMES: u64 = 40;
/// Of sessions that no frame is ever sent to.
const QUIET: u16 = 0x100;
/// The discriminator of all sessions: their peers' packets are proven whoever has the memory.
const OURS: u32 = 1;
/// Short, so that scans expire sessions all the time.
const TIMERS: Timers = timers(1, 2_000);

pub(crate) fn reused_memory_is_clean() -> anyhow::Result<()> {
    let seed = seed("reuse")?;
    let mut kernel = kernel("reuse", SESSIONS.into())?;
    let frames: Vec<_> = (0..SESSIONS)
        .map(|index| frame(&key(index), OURS, 2_000))
        .collect();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut senders = Vec::new();
    for _ in 0..THREADS {
        senders.push(Sender::new(&kernel)?);
    }
    let result = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (thread, mut sender) in (1..).zip(senders) {
            let (stop, sent, frames) = (&stop, &sent, &frames);
            threads.push(scope.spawn(move || -> anyhow::Result<()> {
                let rng = Rng::new(seed, thread);
                while !stop.load(Ordering::Relaxed) {
                    sender.send(&rng, &frames[rng.index(frames.len())])?;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        let result = rounds(&mut kernel, &Rng::new(seed, 0), &sent);
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().ok().context("a sender panicked")??;
        }
        result
    });
    result?;
    let scans = kernel.counters(0)?.get(Counter::ScanDone);
    println!(
        "reuse: {} sessions in used memory, {} frames, {scans} scans",
        ROUNDS * 2 * u32::from(SESSIONS),
        sent.into_inner(),
    );
    ensure!(scans > u64::from(ROUNDS), "hardly a scan ran meanwhile");
    Ok(())
}

fn rounds(kernel: &mut Kernel, rng: &Rng, sent: &AtomicU64) -> anyhow::Result<()> {
    let mut slots: Vec<u32> = (0..SESSIONS.into()).map(|slot| slot * 128).collect();
    let mut generation = 0;
    let mut there: Vec<SessionEntry> = Vec::new();
    for round in 0..2 * ROUNDS {
        let quiet = if round % 2 == 0 { 0 } else { QUIET };
        for old in there.drain(..) {
            kernel.delete_session(&old.key)?;
        }
        grace_period()?;
        for index in (1..slots.len()).rev() {
            slots.swap(index, rng.index(index + 1));
        }
        for (index, &slot) in (0..SESSIONS).zip(&slots) {
            generation += 1;
            let mut entry = entry(key(quiet + index), slot, generation, TIMERS);
            entry.session.local_discr = OURS;
            insert(kernel, &entry)?;
            there.push(entry);
        }
        let check = if quiet == 0 { busy } else { untouched };
        for entry in &there {
            check(kernel, entry)?;
        }
        more(sent, FRAMES)?;
        for entry in &there {
            check(kernel, entry)?;
        }
    }
    Ok(())
}

/// Nobody sent it anything: it must be as it was inserted, to the byte.
fn untouched(kernel: &Kernel, inserted: &SessionEntry) -> anyhow::Result<()> {
    let now = get(kernel, &inserted.key)?;
    ensure!(now == *inserted, "changed from {inserted:#?}\nto {now:#?}");
    let slot = kernel.deadline(inserted.slot)?;
    let expected = Deadline {
        next_due: inserted.generation,
        ..free(inserted.key)
    };
    ensure!(
        slot == expected,
        "the slot should be {expected:#?}\nis {slot:#?}"
    );
    Ok(())
}

/// Frames reach it: what they do not change must be its own, and what they do must fit together.
fn busy(kernel: &Kernel, inserted: &SessionEntry) -> anyhow::Result<()> {
    let now = get(kernel, &inserted.key)?;
    let (session, before) = (&now.session, &inserted.session);
    let own = now.key == inserted.key
        && now.slot == inserted.slot
        && now.generation == inserted.generation
        && now.block == inserted.block
        && session.timers == before.timers
        && session.local_discr == before.local_discr;
    let heard = now.received > 0;
    let mut fits = now.answered <= now.received
        && now.originated == 0
        && session.ups == session.transitions.div_ceil(2)
        && session.transitions % 2 == u32::from(session.state == State::Up)
        && u64::from(session.transitions) <= 2 * now.received
        && (session.state == State::Up) == (session.detect_deadline_ns != 0)
        // The clock is asked after the look-up: nothing can be older than the session.
        && [session.last_rx_ns, now.last_seen_ns]
            .iter()
            .all(|&ns| if heard { ns >= before.since_ns } else { ns == 0 });
    fits &= session.peer_discr == if heard { peer_discr(&now.key) } else { 0 };
    ensure!(own && fits, "inserted {inserted:#?}\nis now {now:#?}");
    let slot = kernel.deadline(inserted.slot)?;
    ensure!(
        slot.key == inserted.key,
        "the slot of {inserted:#?}\nis {slot:#?}"
    );
    Ok(())
}

fn get(kernel: &Kernel, key: &SessionKey) -> anyhow::Result<SessionEntry> {
    kernel.session(key)?.context("no such session")
}

/// Waits for so many frames.
fn more(sent: &AtomicU64, frames: u64) -> anyhow::Result<()> {
    let (start, until) = (Instant::now(), sent.load(Ordering::Relaxed) + frames);
    while sent.load(Ordering::Relaxed) < until {
        ensure!(start.elapsed() < LOST, "no more frames are run");
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// As the agent does it: every program that was running has ended.
pub(crate) fn grace_period() -> anyhow::Result<()> {
    const MEMBARRIER_GLOBAL: libc::c_int = 1;
    // SAFETY: a system call without pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if result != 0 {
        // nohz_full: the agent waits instead, too.
        let start = monotonic_ns();
        while monotonic_ns() < start + 1_000_000_000 {
            thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}
