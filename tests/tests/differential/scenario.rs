//! The run: sessions in the kernel and in memory, frame after frame.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use dz_agent::memory::BpfMaps;
use dz_common::LIVENESS_PORT;
use dz_common::counters::{Counter, Counters, Kind};
use dz_common::map::SessionKey;
use dz_tests::veth;
use dz_tests::wait::monotonic_ns;

use crate::answer;
use crate::frames::frame;
use crate::hook::Hook;
use crate::model::{self, Arrival, BLOCKS, Effect, moved};
use crate::programs::Programs;
use crate::report::{Tally, difference, part};
use crate::setup::{self, Device, FIRSTS_PEERS, PEERS, USUAL_GRACE_NS};
use crate::states::{scramble, version};
use dz_tests::kernel::{Kernel, SLOTS};
use dz_tests::rng::Rng;

/// Frames of a run. So many must have taken every exit.
const FRAMES: u64 = 120_000;
/// The fewest of them that both worlds must have seen.
const ENOUGH: u64 = 100_000;
/// After so many, both worlds are compared as a whole.
const WHOLE: u64 = 10_000;
/// ktime_get_mono_fast_ns against clock_gettime.
pub(crate) const CLOCK_SLACK_NS: u64 = 1_000_000;

struct Run {
    seed: u64,
    kernel: Kernel,
    programs: Programs,
    maps: BpfMaps,
    devices: [Device; 2],
    counters: Vec<Counters>,
    tally: Tally,
    /// Frames in a row for one session.
    target: (usize, SessionKey),
    left: u64,
    /// Frames too short for the kernel to run a program over.
    refused: u64,
}

pub(crate) fn kernel_and_host_agree() -> anyhow::Result<()> {
    let (seed, count) = setup::seed_and_count("differential", FRAMES)?;
    let netns = setup::pair("differential")?;
    let device = |name, locals| -> anyhow::Result<Device> {
        Ok(Device {
            ifindex: netns.ifindex(name)?,
            mac: veth::mac(&netns, name)?,
            locals,
        })
    };
    // One address on both, for sessions that differ in nothing but the interface.
    let devices = [
        device("dz0", [[10, 1, 0, 1], [10, 1, 0, 2]])?,
        device("dz1", [[10, 1, 0, 1], [10, 2, 0, 1]])?,
    ];
    let mut run = Run::new(seed, devices)?;
    let start = Instant::now();
    // Interfaces are looked up in the namespace of the thread that runs the programs.
    netns.run(|| run.frames(count))?;
    println!("{}", run.tally);
    println!(
        "differential: {} frames agree ({} more were too short for the kernel), in {:?}",
        count - run.refused,
        run.refused,
        start.elapsed()
    );
    if count >= FRAMES {
        ensure!(count - run.refused >= ENOUGH, "too few frames were run");
        let missing = run.tally.missing();
        let missing = missing.join(", ");
        ensure!(missing.is_empty(), "nothing was counted as: {missing}");
    }
    Ok(())
}

/// Shown when the host's build of the handler panics.
struct Replay(u64, u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "frame {1}: replay with DZ_SEED={0} DZ_COUNT={2}",
                self.0,
                self.1,
                self.1 + 1
            );
        }
    }
}

impl Run {
    fn new(seed: u64, devices: [Device; 2]) -> anyhow::Result<Self> {
        let mut kernel = Kernel::load("differential", SLOTS)?;
        let maps = setup::maps(&devices)?;
        for (local, block) in maps.locals() {
            kernel.set_local(local, *block)?;
        }
        let mut target = None;
        for (place, entry) in maps.sessions().iter() {
            let key = SessionKey {
                ifindex: place.ifindex,
                local: entry.key.local,
                peer: place.peer,
            };
            kernel.set_session(&key, entry)?;
            target = target.or(Some(key));
        }
        for slot in 0..SLOTS {
            kernel.set_deadline(slot, maps.deadline(slot).context("too few slots")?)?;
        }
        kernel.set_config(maps.config())?;
        kernel.set_beat(maps.beat_ns())?;
        let target = target.context("no sessions")?;
        let mut run = Self {
            seed,
            programs: Programs::new(&kernel)?,
            kernel,
            maps,
            devices,
            counters: Vec::new(),
            tally: Tally::default(),
            target: (0, target),
            left: 0,
            refused: 0,
        };
        run.counters = run.read_counters()?;
        Ok(run)
    }

    fn frames(&mut self, count: u64) -> anyhow::Result<()> {
        for index in 0..count {
            let replay = Replay(self.seed, index);
            self.one(index).with_context(|| {
                format!(
                    "frame {index}: replay with DZ_SEED={} DZ_COUNT={}",
                    self.seed,
                    index + 1
                )
            })?;
            if index % WHOLE == WHOLE - 1 || index + 1 == count {
                self.compare_whole()?;
            }
            drop(replay);
        }
        Ok(())
    }

    /// One frame, in the kernel and on the host.
    fn one(&mut self, index: u64) -> anyhow::Result<()> {
        let rng = Rng::new(self.seed, index);
        let arrival = self.next(&rng)?;
        let before_ns = monotonic_ns();
        let Some((verdict, after)) = self.programs.run(&self.kernel, &arrival)? else {
            self.refused += 1;
            return Ok(());
        };
        let after_ns = monotonic_ns();

        let received = model::receive(&mut self.maps, &arrival, self.target.1, |key| {
            let entry = self.kernel.session(key).ok().flatten();
            entry.map_or(0, |entry| entry.last_seen_ns)
        });
        let expected = &received.effect;
        let got = self.observe(expected, verdict, after)?;
        if got != *expected {
            bail!("{}", difference(&arrival, expected, &got));
        }
        if let Some(now_ns) = received.recorded_ns() {
            // The kernel's clock for programs may be off by a tick's correction.
            ensure!(
                (before_ns - CLOCK_SLACK_NS..=after_ns + CLOCK_SLACK_NS).contains(&now_ns),
                "recorded {now_ns}, but ran between {before_ns} and {after_ns}"
            );
        }
        let exits = expected
            .counted
            .iter()
            .filter(|((_, name), _)| is_exit(name));
        ensure!(
            exits.map(|(_, count)| count).sum::<u64>() == 1,
            "not one exit: {expected:?}"
        );
        answer::check(self.maps.config(), &arrival, &received)?;
        self.tally.add(arrival.hook, expected);
        Ok(())
    }

    /// What the kernel's run did, as far as it can be seen from outside.
    fn observe(
        &mut self,
        expected: &Effect,
        verdict: u32,
        frame: Vec<u8>,
    ) -> anyhow::Result<Effect> {
        let counters = self.read_counters()?;
        let counted = moved(&self.counters, &counters);
        self.counters = counters;
        let entry = self.kernel.session(&expected.key)?;
        let slot = entry.map(|entry| entry.slot).filter(|slot| *slot < SLOTS);
        let mut events = self.kernel.events()?;
        ensure!(events.len() <= 1, "events of one frame: {events:#?}");
        Ok(Effect {
            verdict,
            frame,
            counted,
            key: expected.key,
            entry,
            deadline: slot.map(|slot| self.kernel.deadline(slot)).transpose()?,
            event: events.pop(),
        })
    }

    fn read_counters(&self) -> anyhow::Result<Vec<Counters>> {
        (0..BLOCKS)
            .map(|block| self.kernel.counters(block))
            .collect()
    }

    /// Compares all sessions and deadlines.
    fn compare_whole(&self) -> anyhow::Result<()> {
        let sessions = self.kernel.sessions()?;
        let mut text = String::new();
        let expected = self.maps.sessions().iter();
        let expected: BTreeMap<_, _> = expected.map(|(place, entry)| (*place, *entry)).collect();
        part(&mut text, "sessions", &expected, &sessions);
        for slot in 0..SLOTS {
            let expected = self.maps.deadline(slot).copied();
            let got = Some(self.kernel.deadline(slot)?);
            part(&mut text, &format!("deadline {slot}"), &expected, &got);
        }
        ensure!(text.is_empty(), "the worlds differ: {text}");
        Ok(())
    }

    /// Changes the world a little, and makes the next frame.
    fn next(&mut self, rng: &Rng) -> anyhow::Result<Arrival> {
        if rng.chance(1) {
            self.reconfigure(rng)?;
        }
        if self.left == 0 {
            self.left = 1 + rng.below(12);
            self.retarget(rng);
            if rng.chance(70) {
                self.rescramble(rng)?;
            }
        } else if rng.chance(5) {
            self.rescramble(rng)?;
        }
        self.left -= 1;
        let (device, key) = self.target;
        let device = &self.devices[device];
        let hook = Hook::from_percent(rng.below(100));
        let entry = model::at(&self.maps, &key);
        let port = self.maps.config().port;
        let key = SessionKey {
            local: self.local(rng, &key),
            ..key
        };
        Ok(Arrival {
            hook,
            ifindex: device.ifindex,
            mac: device.mac,
            frame: frame(rng, hook.link(), device.mac, &key, entry.as_ref(), port),
        })
    }

    /// The session's local address, or another of some interface's, or of none.
    fn local(&self, rng: &Rng, key: &SessionKey) -> [u8; 4] {
        match rng.below(40) {
            0 => rng.pick(&self.devices[0].locals),
            1 => rng.pick(&self.devices[1].locals),
            2 => [192, 0, 2, 77],
            _ => key.local,
        }
    }

    fn retarget(&mut self, rng: &Rng) {
        let device = rng.index(self.devices.len());
        let at = &self.devices[device];
        // A few more than there are.
        let peer = rng.byte() % (PEERS + 3);
        let key = SessionKey {
            ifindex: at.ifindex,
            local: at.locals[usize::from(peer >= FIRSTS_PEERS)],
            peer: [10, 9, peer, 1],
        };
        self.target = (device, key);
    }

    fn rescramble(&mut self, rng: &Rng) -> anyhow::Result<()> {
        let now_ns = monotonic_ns();
        let key = self.target.1;
        if let Some(mut entry) = model::at(&self.maps, &key) {
            scramble(&mut entry, rng, now_ns);
            self.maps.put_session(&key, &entry)?;
            self.kernel.set_session(&key, &entry)?;
        }
        Ok(())
    }

    /// Another configuration, another heartbeat: mostly the usual ones.
    fn reconfigure(&mut self, rng: &Rng) -> anyhow::Result<()> {
        let now_ns = monotonic_ns();
        let usual = rng.chance(60);
        let mut config = *self.maps.config();
        config.port = rng.pick(&[LIVENESS_PORT, LIVENESS_PORT, 1, u16::MAX, 0x3412]);
        config.ttl = rng.pick(&[64, 255, rng.byte()]);
        config.tos = rng.pick(&[0xc0, 0, rng.byte()]);
        config.unknown_pass = rng.below(2) as u8;
        config.version = version(rng);
        let grace_ns = rng.pick(&[0, 1_000, 300_000, USUAL_GRACE_NS, u64::MAX]);
        config.grace_ns = if usual { USUAL_GRACE_NS } else { grace_ns };
        // The third one is too old after a few frames.
        let soon_ns = (now_ns + rng.below(300_000)).saturating_sub(config.grace_ns);
        let beat_ns = rng.pick(&[0, now_ns, soon_ns, now_ns + USUAL_GRACE_NS]);
        let beat_ns = if usual { now_ns } else { beat_ns };
        self.maps.set_config(config);
        self.maps.beat(beat_ns);
        self.kernel.set_config(&config)?;
        self.kernel.set_beat(beat_ns)
    }
}

fn is_exit(name: &str) -> bool {
    let counter = Counter::ALL.iter().find(|counter| counter.name() == name);
    counter.is_some_and(|counter| counter.kind() == Kind::Exit)
}
