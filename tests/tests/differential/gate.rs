//! The gate: `dz_gate_eth` in the kernel and in memory, on sessions in all kinds of states.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use dz_agent::memory::BpfMaps;
use dz_agent::memory::programs::gate::{Gate, Leaving, egress};
use dz_common::counters::{Counter, Counters};
use dz_common::entry::Identity;
use dz_common::gate::Action;
use dz_common::ingress::Link;
use dz_common::map::{Config, SessionEntry, SessionKey};
use dz_common::session::{Session, Timers};
use dz_tests::bpf::test_run;
use dz_tests::kernel::{Kernel, SLOTS};
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;

use crate::frames::frame;
use crate::model::{self, BLOCKS, moved};
use crate::programs::{SKB_IFINDEX, SKB_WORDS, TC_SHORTEST};
use crate::setup;
use crate::states::scramble;

/// Packets of a run. So many must have come to every end.
const PACKETS: u64 = 20_000;
const MAC: [u8; 6] = [2, 0xdb, 0, 0, 0, 1];
const BLOCK: u32 = 2;
/// An interface without a gate.
const LOOPBACK: u32 = 1;
/// What `Gate` is to the kernel: `TC_ACT_UNSPEC`, `TC_ACT_SHOT`, `TC_ACT_REDIRECT`.
const VERDICTS: [u32; 3] = [u32::MAX, 2, 7];
/// The ends of a packet whose source is not confined.
const ENDS: [Counter; 9] = [
    Counter::GateNotIpv4,
    Counter::GateNoSession,
    Counter::GateLiveness,
    Counter::GateUp,
    Counter::GatePassive,
    Counter::GateDownPassed,
    Counter::GateNeverUpPassed,
    Counter::GateRerouted,
    Counter::GateNoDetour,
];

pub(crate) fn gates_agree() -> anyhow::Result<()> {
    let (seed, count) = setup::seed_and_count("gate", PACKETS)?;
    let netns = setup::pair("gate")?;
    let ifindex = netns.ifindex("dz0")?;
    let mut kernel = Kernel::without_timer("gate", 1)?;
    let mut maps = BpfMaps::new(SLOTS);
    let mut seen = BTreeMap::new();
    netns.run(|| -> anyhow::Result<()> {
        for index in 0..count {
            let exits = one(&mut kernel, &mut maps, ifindex, &Rng::new(seed, index))
                .with_context(|| format!("packet {index}: replay with DZ_SEED={seed}"))?;
            for exit in exits {
                *seen.entry(exit).or_insert(0_u64) += 1;
            }
        }
        Ok(())
    })?;
    println!("gate: exits {seen:?}");
    for end in ENDS {
        let reached = count < PACKETS || seen.contains_key(end.name());
        ensure!(reached, "no packet ended as {}", end.name());
    }
    Ok(())
}

/// One packet, in the kernel and in memory; returns what was counted.
fn one(
    kernel: &mut Kernel,
    maps: &mut BpfMaps,
    ifindex: u32,
    rng: &Rng,
) -> anyhow::Result<Vec<&'static str>> {
    let action = || rng.pick(&[Action::Pass, Action::Drop, Action::Reroute]);
    let config = Config {
        when_down: action(),
        when_never_up: action(),
        ignore_peer_passive: rng.below(2) as u8,
        ..setup::config()
    };
    let key = SessionKey {
        ifindex,
        local: [10, 1, 0, 1],
        peer: [10, 9, 1, 1],
    };
    let entry = entry(rng, key);
    kernel.set_config(&config)?;
    kernel.set_session(&key, &entry)?;
    maps.set_config(config);
    maps.put_session(&key, &entry)?;
    let to = rng.pick(&[key.peer, key.peer, key.peer, [10, 9, 1, 2]]);
    let back = SessionKey {
        local: to,
        peer: key.local,
        ..key
    };
    let port = rng.pick(&[config.port, 53]);
    let frame = frame(rng, Link::Ethernet, MAC, &back, Some(&entry), port);

    let mut context = [0; SKB_WORDS];
    context[SKB_IFINDEX] = ifindex;
    let counters = read(kernel)?;
    let got = match test_run(kernel.gate(), &frame, &context, &mut [0; 4_096]) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && frame.len() < TC_SHORTEST => {
            return Ok(Vec::new());
        }
        ran => ran?.verdict,
    };
    let got_counted = moved(&counters, &read(kernel)?);
    let counters = model::counters(maps);
    let leaving = Leaving {
        ifindex,
        link: Link::Ethernet,
        frame: &frame,
    };
    let expected = match egress(maps, &leaving) {
        Gate::Pass => VERDICTS[0],
        Gate::Drop => VERDICTS[1],
        Gate::Divert(_) => VERDICTS[2],
    };
    let counted = moved(&counters, &model::counters(maps));
    ensure!(
        (got, &got_counted) == (expected, &counted),
        "{frame:02x?}: expected {expected} and {counted:?}, got {got} and {got_counted:?}"
    );
    ensure!(kernel.session(&key)? == Some(entry), "the session changed");
    Ok(counted.keys().map(|(_, name)| *name).collect())
}

fn entry(rng: &Rng, key: SessionKey) -> SessionEntry {
    let identity = Identity {
        key,
        slot: 0,
        generation: 1,
        block: BLOCK,
        seed: rng.word(),
    };
    let now_ns = monotonic_ns();
    let mut entry = SessionEntry::new(identity, Session::new(Timers::DEFAULT, 1, now_ns));
    scramble(&mut entry, rng, now_ns);
    entry.detour = rng.pick(&[0, key.ifindex, LOOPBACK]);
    entry
}

fn read(kernel: &Kernel) -> anyhow::Result<Vec<Counters>> {
    (0..BLOCKS).map(|block| kernel.counters(block)).collect()
}
