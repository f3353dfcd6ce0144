//! What the maps hold at the start.

use anyhow::Context;
use dz_agent::memory::BpfMaps;
use dz_agent::memory::programs::control::control;
use dz_common::LIVENESS_PORT;
use dz_common::control::{OP_START_GROUP, Request};
use dz_common::entry::Identity;
use dz_common::map::{ABI_VERSION, Config, Deadline, LocalKey, NEVER_NS, SessionEntry, SessionKey};
use dz_common::packet::Version;
use dz_common::session::{Session, Timers};
use dz_tests::netns::Netns;
use dz_tests::veth;
use dz_tests::wait::monotonic_ns;

use dz_tests::kernel::SLOTS;

/// Peers per interface, and how many of them know it by its first address; the others by its second.
pub(crate) const PEERS: u8 = 110;
pub(crate) const FIRSTS_PEERS: u8 = 60;
/// Restart grace, most of the time.
pub(crate) const USUAL_GRACE_NS: u64 = 30_000_000_000;

/// Returns the seed and the count of a random comparison, from the environment or as usual, and prints them.
pub(crate) fn seed_and_count(name: &str, usual: u64) -> anyhow::Result<(u64, u64)> {
    let seed = number("DZ_SEED")?.unwrap_or_else(monotonic_ns);
    let count = number("DZ_COUNT")?.unwrap_or(usual);
    println!("{name}: DZ_SEED={seed} DZ_COUNT={count}");
    Ok((seed, count))
}

fn number(name: &str) -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .with_context(|| format!("{name}={text}"))
}

/// Makes a namespace with both ends of a veth pair in it, `dz0` and `dz1`.
pub(crate) fn pair(name: &str) -> anyhow::Result<Netns> {
    let netns = Netns::new(name)?;
    let [a, b] = ["dz0", "dz1"].map(|name| veth::End {
        netns: &netns,
        name,
        address: None,
        mac: None,
        queues: 1,
    });
    veth::pair(&a, &b)?;
    Ok(netns)
}

/// An interface and its addresses.
pub(crate) struct Device {
    pub(crate) ifindex: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) locals: [[u8; 4]; 2],
}

/// The usual configuration.
pub(crate) fn config() -> Config {
    Config {
        abi_version: ABI_VERSION,
        port: LIVENESS_PORT,
        unknown_pass: 0,
        ignore_peer_passive: 0,
        version: Version::new([1, 2, 3, 0]),
        groups: 1,
        grace_ns: USUAL_GRACE_NS,
        when_down: dz_common::gate::Action::Pass,
        when_never_up: dz_common::gate::Action::Pass,
        ttl: 64,
        tos: 0xc0,
        route_protocols: [0; 4],
    }
}

/// The usual configuration, and sessions as they are when they are inserted.
///
/// # Errors
/// There is no room.
pub(crate) fn maps(devices: &[Device; 2]) -> anyhow::Result<BpfMaps> {
    let mut maps = BpfMaps::new(SLOTS);
    maps.set_config(config());
    maps.beat(monotonic_ns());
    // They name no session, so that a scan of the timer expires none while we look: what
    // a receipt does does not depend on it.
    for slot in 0..SLOTS {
        let key = SessionKey {
            ifindex: 0,
            local: [0; 4],
            peer: [0; 4],
        };
        let deadline = Deadline {
            deadline_ns: NEVER_NS,
            key,
            next_due: 0,
        };
        maps.set_deadline(slot, deadline);
    }
    let start = Request {
        op: OP_START_GROUP,
        ..Request::NONE
    };
    control(&mut maps, &start, monotonic_ns());
    populate(devices, &mut maps)?;
    Ok(maps)
}

/// Local addresses and sessions. Two of each interface cannot be served: one's slot does not exist, the
/// other's entry says that it is somebody else (as if its memory had been given away meanwhile).
fn populate(devices: &[Device; 2], maps: &mut BpfMaps) -> anyhow::Result<()> {
    let mut slot = 0;
    let mut block = 0;
    for device in devices {
        for (index, local) in device.locals.into_iter().enumerate() {
            block += 1;
            let (ifindex, addr) = (device.ifindex, local);
            maps.set_local(&LocalKey { ifindex, addr }, block)?;
            let peers = [0..FIRSTS_PEERS, FIRSTS_PEERS..PEERS];
            for peer in peers[index].clone() {
                let key = SessionKey {
                    ifindex,
                    local,
                    peer: [10, 9, peer, 1],
                };
                let mut entry = SessionEntry::new(
                    Identity {
                        key,
                        slot,
                        generation: slot * 3 + 1,
                        block,
                        seed: slot + 1,
                    },
                    Session::new(Timers::DEFAULT, slot + 1, 1),
                );
                match peer {
                    0 => entry.slot = SLOTS,
                    1 => entry.key.peer = [10, 9, 250, 1],
                    _ => {}
                }
                maps.put_session(&key, &entry)?;
                slot += 1;
            }
        }
    }
    Ok(())
}
