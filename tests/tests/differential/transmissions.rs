//! Our clock: `dz_transmit` against the decisions of dz-common, put together as `dz-ebpf/src/transmit.rs`
//! puts them together, on sessions in all kinds of states.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use dz_common::counters::Counter;
use dz_common::entry::Identity;
use dz_common::headers::{self, DATAGRAM_LEN, ETHERTYPE_IPV4, Marks, UdpChecksum};
use dz_common::map::{Config, DUE_ETHERNET, DUE_FORCE, Due, SessionEntry, SessionKey};
use dz_common::packet::Packet;
use dz_common::session::{NS_PER_US, Session, Timers};
use dz_common::transmit::{self, Transmission};
use dz_tests::kernel::Kernel;
use dz_tests::netns::Netns;
use dz_tests::rng::Rng;
use dz_tests::veth;
use dz_tests::wait::monotonic_ns;

use crate::scenario::{CLOCK_SLACK_NS, number};
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
    let seed = number("DZ_SEED")?.unwrap_or_else(monotonic_ns);
    let count = number("DZ_COUNT")?.unwrap_or(TURNS);
    println!("transmissions: DZ_SEED={seed} DZ_COUNT={count}");
    let netns = Netns::new("transmissions")?;
    let [a, b] = ["dz0", "dz1"].map(|name| veth::End {
        netns: &netns,
        name,
        address: None,
        mac: None,
        queues: 1,
    });
    veth::pair(&a, &b)?;
    let ifindex = netns.ifindex("dz0")?;
    let mut kernel = Kernel::without_timer("transmissions", 2)?;
    let config = setup::config();
    kernel.set_config(&config)?;
    let mut seen = BTreeMap::new();
    // The program looks interfaces up in the namespace of the thread that runs it.
    netns.run(|| -> anyhow::Result<()> {
        for index in 0..count {
            let rng = Rng::new(seed, index);
            let exit = one(&mut kernel, &config, ifindex, &rng).with_context(|| {
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

/// One turn, in the kernel and on the host; returns its exit.
fn one(kernel: &mut Kernel, config: &Config, ifindex: u32, rng: &Rng) -> anyhow::Result<u32> {
    let before_ns = monotonic_ns();
    let key = SessionKey {
        ifindex: rng.pick(&[ifindex, ifindex, ifindex, NO_INTERFACE]),
        local: LOCAL,
        peer: PEER,
    };
    let mut entry = entry(rng, key, before_ns);
    let before = entry;
    let mut due = due(rng, key);
    kernel.set_session(&key, &entry)?;
    let counters = kernel.counters(BLOCK)?;
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
    let transmission = if due.key == key {
        entry.transmit(&due.turn(), config, now_ns)
    } else {
        None
    };
    let (block, exit) = match transmission {
        None => transmit::NO_SESSION,
        Some(Transmission {
            packet: None,
            unsent,
            ..
        }) => (BLOCK, unsent),
        Some(Transmission {
            packet: Some(packet),
            ..
        }) => {
            ensure!(frame == self::frame(&due, config, &packet), "another frame");
            (BLOCK, transmit::exit(key.ifindex == ifindex))
        }
    };
    due.exit = exit as u32;
    due.next_due_ns = transmission.map_or(0, |transmission| transmission.next_due_ns);
    if exit == Counter::TxNotDue {
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
    let counted = kernel.counters(BLOCK)?;
    for &counter in Counter::ALL {
        let expected = u64::from(counter == exit && block == BLOCK);
        let by = counted.get(counter) - counters.get(counter);
        ensure!(by == expected, "{} by {by}", counter.name());
    }
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

/// What goes out; of a device without Ethernet headers the kernel takes that one off.
fn frame(due: &Due, config: &Config, packet: &Packet) -> Vec<u8> {
    let mut datagram = [0; DATAGRAM_LEN];
    let (key, marks) = (&due.key, Marks::of(config));
    let checksum = UdpChecksum::Full;
    headers::write(
        &mut datagram,
        &key.local,
        &key.peer,
        marks,
        packet,
        checksum,
    );
    let ethertype = ETHERTYPE_IPV4.to_be_bytes();
    [&due.destination[..], &due.source, &ethertype, &datagram].concat()
}
