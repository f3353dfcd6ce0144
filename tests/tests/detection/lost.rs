//! Earlier deadlines, stored while scans run.
//!
//! In a group that has any deadline, the next scan is at most 250 ms away: there a deadline that
//! the protocol dropped would only be late. In one that is left with none it is lost for good;
//! that is the business of `idle`.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dz_common::counters::Counter;
use dz_common::packet::State;
use dz_common::session::{DownReason, NS_PER_US};
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;

use crate::bench::{Sender, entry, frame, insert, kernel, key, seed, timers};
use crate::verdicts::all_expire;

const SESSIONS: u16 = 600;
const THREADS: u64 = 3;
/// For so long there is something to scan and to receive.
const BUSY: Duration = Duration::from_secs(3);
const INTERVALS_US: [u32; 6] = [50_000, 70_000, 150_000, 400_000, 1_000_000, 3_000_000];

/// A session's frames: the peer changes its mind about its interval.
struct Peer {
    frames: [Vec<u8>; 2],
    shortest_us: u32,
    detect_mult: u8,
}

pub(crate) fn no_deadline_is_lost() -> anyhow::Result<()> {
    let seed = seed("lost")?;
    let rng = Rng::new(seed, 0);
    let mut kernel = kernel("lost", SESSIONS.into())?;
    let mut peers = Vec::new();
    for index in 0..SESSIONS {
        let (key, generation) = (key(index), u32::from(index) + 1);
        let intervals = [rng.pick(&INTERVALS_US), rng.pick(&INTERVALS_US)];
        let detect_mult = 1 + rng.below(3) as u8;
        // Spread over the group, in another order than they are looked up.
        let slot = u32::from(index) * 1_021 % 2_048;
        let timers = timers(detect_mult, INTERVALS_US[0]);
        insert(&mut kernel, &entry(key, slot, generation, timers))?;
        peers.push(Peer {
            frames: intervals.map(|interval_us| frame(&key, generation, interval_us)),
            shortest_us: intervals[0].min(intervals[1]),
            detect_mult,
        });
    }
    let start = Instant::now();
    let peers = &peers;
    thread::scope(|scope| -> anyhow::Result<()> {
        let mut senders = Vec::new();
        for thread in 0..THREADS {
            let mut sender = Sender::new(&kernel)?;
            senders.push(scope.spawn(move || -> anyhow::Result<()> {
                let rng = Rng::new(seed, 1 + thread);
                while start.elapsed() < BUSY {
                    let peer = &peers[rng.index(peers.len())];
                    sender.send(&rng, &peer.frames[rng.index(2)])?;
                    // Bursts, and pauses in which the shortest run out.
                    if rng.chance(10) {
                        thread::sleep(Duration::from_micros(rng.below(20_000)));
                    }
                }
                Ok(())
            }));
        }
        while senders.iter().any(|sender| !sender.is_finished()) {
            let mut timeouts = 0;
            for event in kernel.events()? {
                if event.to != State::Down {
                    continue;
                }
                timeouts += 1;
                // `since_ns` is one interval after the last packet.
                let [.., high, low] = event.key.peer;
                let peer = &peers[usize::from(u16::from_be_bytes([high, low]))];
                let rest_us = u64::from(peer.shortest_us) * u64::from(peer.detect_mult - 1);
                ensure!(
                    event.reason == DownReason::Timeout
                        && event.at_ns >= event.since_ns + rest_us * NS_PER_US,
                    "too early, or for another reason: {event:#?}"
                );
            }
            if timeouts == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }
        for sender in senders {
            sender.join().ok().context("a sender panicked")??;
        }
        Ok(())
    })?;
    let silent_ns = monotonic_ns();
    let keys: Vec<_> = (0..SESSIONS).map(key).collect();
    let lateness = all_expire(&kernel, &keys, silent_ns)?;
    let counters = kernel.counters(0)?;
    println!(
        "lost: {} frames, {} expiries and {} scans; then {lateness}",
        counters.get(Counter::RxAnswered)
            + counters.get(Counter::RxPaced)
            + counters.get(Counter::RxBurstSpent),
        counters.get(Counter::UpToDownTimeout) + counters.get(Counter::InitToDownTimeout),
        counters.get(Counter::ScanDone),
    );
    Ok(())
}
