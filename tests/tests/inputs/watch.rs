//! What an input changes: everything that can be read before and after it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dz_common::counters::Counter;
use dz_tests::bpftool;
use dz_tests::wait::eventually;
use serde_json::{Map, Value};

use crate::bed::{Bed, PATIENCE, SECOND};
use crate::peer::LOCAL;

/// Whose counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Of no address of ours.
    Shared,
    /// Of the address that has the sessions.
    Local,
    /// Of the interface's other address.
    Second,
}

/// Counters, with how much each is or has moved.
pub(crate) type Moves = BTreeMap<(Place, String), u64>;

/// What an input may do to the map entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Nothing at all.
    Nothing,
    /// One packet more of this peer's, and when it was seen; its state machine took no note.
    Seen(Ipv4Addr),
    /// The same, and the time of its last stateless answer.
    Introduced(Ipv4Addr),
    /// The same for any number of packets.
    Blind(Ipv4Addr),
    /// This peer's state machine took note; what of is for the caller to check.
    Changed(Ipv4Addr),
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) counters: Moves,
    sessions: BTreeMap<Ipv4Addr, Value>,
    peers: Vec<Value>,
}

/// What an input led to.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) after: Snapshot,
    /// Frames that passed the programs.
    pub(crate) passed: Vec<Vec<u8>>,
    /// IPv4 packets that came out of the host.
    pub(crate) came_out: Vec<Vec<u8>>,
}

impl Snapshot {
    pub(crate) fn take(bed: &Bed) -> Result<Self> {
        let pins = bed.agent.home().pin_dir();
        let mut peers = bpftool::dump(&pins.join("dz_peers"))?;
        peers.sort_by_key(Value::to_string);
        let mut sessions = BTreeMap::new();
        for mut entry in bpftool::dump(&pins.join("dz_sessions"))? {
            let octets: [u8; 4] = serde_json::from_value(entry["key"]["peer"].take())
                .context("the peer in a key of dz_sessions")?;
            let previous = sessions.insert(octets.into(), entry["value"].take());
            ensure!(previous.is_none(), "two sessions with one peer");
        }
        Ok(Self {
            counters: counters(bed)?,
            sessions,
            peers,
        })
    }

    /// A field of a session's entry: `/received`, `/session/state`.
    pub(crate) fn field(&self, peer: Ipv4Addr, pointer: &str) -> Result<&Value> {
        let entry = self.sessions.get(&peer).context("no such session")?;
        entry
            .pointer(pointer)
            .with_context(|| format!("no field {pointer} in {entry}"))
    }
}

/// The counters of the session's addresses that an input may move. The agent's clock goes on
/// meanwhile, and so do the detection timers.
fn counters(bed: &Bed) -> Result<Moves> {
    let reply = bed.agent.get("/v1/counters")?;
    let mut all = Moves::new();
    for block in reply["blocks"].as_array().context("no blocks")? {
        let place = match block["local"].as_str() {
            None => Place::Shared,
            Some(local) if local == LOCAL.to_string() => Place::Local,
            Some(local) if local == SECOND.to_string() => Place::Second,
            Some(other) => bail!("a block of {other}"),
        };
        for (name, count) in block["counters"].as_object().context("no counters")? {
            all.insert((place, name.clone()), count.as_u64().context("a count")?);
        }
    }
    Ok(all)
}

/// What leaves is counted by the gate, too, whoever sent it.
fn is_our_clock(name: &str) -> bool {
    let starts = ["tx_", "gate_"];
    starts.iter().any(|start| name.starts_with(start)) || name == Counter::ScanDone.name()
}

/// What has moved, the agent's clock left out.
pub(crate) fn moves(before: &Moves, after: &Moves) -> Moves {
    let moved = |(key, count): (&(Place, String), &u64)| {
        let by = count.wrapping_sub(before.get(key).copied().unwrap_or(0));
        (by != 0 && !is_our_clock(&key.1)).then(|| (key.clone(), by))
    };
    after.iter().filter_map(moved).collect()
}

/// Sends frames one after the other, waits until `expected` has moved by one for each time it is
/// named and nothing else has, and until what was sent out is on the wire.
pub(crate) fn observe(
    bed: &Bed,
    before: &Snapshot,
    frame: &[u8],
    expected: &[(Place, Counter)],
) -> Result<Seen> {
    bed.send(frame).context("sending")?;
    let passed = bed.sweep()?;
    let mut wanted = Moves::new();
    let sentinel = (Place::Shared, Counter::PassOtherPort);
    for (place, counter) in expected.iter().chain([&sentinel]) {
        *wanted
            .entry((*place, counter.name().to_owned()))
            .or_default() += 1;
    }
    eventually(PATIENCE, "the counters", || {
        let moved = moves(&before.counters, &counters(bed)?);
        ensure!(moved == wanted, "moved {moved:?}, expected {wanted:?}");
        Ok(())
    })?;
    let came_out = come_out(bed)?;
    Ok(Seen {
        after: Snapshot::take(bed)?,
        passed,
        came_out,
    })
}

/// Takes from the wire as many packets as the counters say have been sent, and not one more.
pub(crate) fn come_out(bed: &Bed) -> Result<Vec<Vec<u8>>> {
    let sent = || -> Result<u64> {
        let count = |((_, name), count): (&(Place, String), &u64)| {
            let sends = [
                Counter::RxAnswered,
                Counter::RxUnprovenAnswered,
                Counter::TxOriginated,
            ];
            let sent = sends.iter().any(|counter| counter.name() == name);
            sent.then_some(*count)
        };
        Ok(counters(bed)?.iter().filter_map(count).sum())
    };
    let mut packets = Vec::new();
    while bed.came_out.get() < sent()? {
        let packet = bed.recv(PATIENCE)?;
        packets.push(packet.context("counted as sent, but not on the wire")?);
    }
    while let Some(packet) = bed.recv(Duration::ZERO)? {
        ensure!(
            bed.came_out.get() <= sent()?,
            "on the wire, but not counted as sent: {packet:02x?}"
        );
        packets.push(packet);
    }
    Ok(packets)
}

/// Compares the map entries before and after.
pub(crate) fn compare(before: &Snapshot, after: &Snapshot, touch: Touch) -> Result<()> {
    ensure!(before.peers == after.peers, "dz_peers has changed");
    let (old, new) = (&before.sessions, &after.sessions);
    ensure!(
        old.keys().eq(new.keys()),
        "sessions with {:?} have become {:?}",
        old.keys(),
        new.keys()
    );
    for (peer, (mut old, mut new)) in old
        .iter()
        .zip(new.values())
        .map(|((peer, old), new)| (*peer, (old.clone(), new.clone())))
    {
        match touch {
            Touch::Changed(changed) if changed == peer => continue,
            Touch::Blind(seen) if seen == peer => {
                for entry in [&mut old, &mut new] {
                    let noted = [
                        "received",
                        "last_seen_ns",
                        "introduced",
                        "introduced_unknown",
                    ];
                    remove(entry, "", &noted);
                }
            }
            Touch::Seen(seen) | Touch::Introduced(seen) if seen == peer => {
                let count = |entry: &Value| entry["received"].as_u64();
                let at = |entry: &Value| entry["last_seen_ns"].as_u64();
                ensure!(
                    count(&new) == count(&old).map(|count| count + 1),
                    "received: {} after {}",
                    new["received"],
                    old["received"]
                );
                ensure!(at(&new) > at(&old), "last_seen_ns stands still");
                let mut noted = vec!["received", "last_seen_ns"];
                if let Touch::Introduced(_) = touch {
                    noted.extend(["introduced", "introduced_unknown"]);
                }
                for entry in [&mut old, &mut new] {
                    remove(entry, "", &noted);
                }
            }
            _ => {}
        }
        // Our clock draws whenever it looks at a session.
        remove(&mut old, "", &["random"]);
        remove(&mut new, "", &["random"]);
        if old["originated"] != new["originated"] {
            // It has transmitted in between.
            for entry in [&mut old, &mut new] {
                remove(entry, "", &["originated"]);
                let clock = [
                    "last_tx_ns",
                    "next_tx_ns",
                    "tx_gaps_us",
                    "burst_left",
                    "announce",
                    "backoff",
                ];
                remove(entry, "/session", &clock);
            }
        }
        ensure!(
            old == new,
            "the session with {peer} has changed:\n{old}\n{new}"
        );
    }
    Ok(())
}

fn remove(entry: &mut Value, pointer: &str, names: &[&str]) {
    if let Some(object) = entry.pointer_mut(pointer).and_then(Value::as_object_mut) {
        let object: &mut Map<String, Value> = object;
        for name in names {
            object.remove(*name);
        }
    }
}
