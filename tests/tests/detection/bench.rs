//! Sessions on interface 1, and frames for them.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use dz_common::LIVENESS_PORT;
use dz_common::entry::Identity;
use dz_common::map::{ABI_VERSION, Config, Deadline, NEVER_NS, SessionEntry, SessionKey};
use dz_common::packet::{Packet, State, Version};
use dz_common::session::{Session, Timers};
use dz_tests::bpf::test_run;
use dz_tests::frame::{Datagram, ethernet};
use dz_tests::kernel::{Kernel, SLOTS};
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;
use etherparse::EtherType;

/// The shortest interval that these sessions accept: detection within a millisecond makes many
/// rounds possible.
pub(crate) const FLOOR_US: u32 = 1_000;
/// `lo`: there in every namespace, with the hardware address zero.
const IFINDEX: u32 = 1;
const LOCAL: [u8; 4] = [10, 1, 0, 1];
/// What every peer calls itself, plus the last two bytes of its address.
const PEER_DISCR: u32 = 0x5000_0000;

/// The programs, with every slot free.
pub(crate) fn kernel(label: &str, sessions: u32) -> anyhow::Result<Kernel> {
    let mut kernel = Kernel::load(label, sessions)?;
    kernel.set_config(&Config {
        abi_version: ABI_VERSION,
        port: LIVENESS_PORT,
        unknown_pass: 0,
        ignore_peer_passive: 0,
        version: Version::new([1, 2, 3, 0]),
        groups: 1,
        grace_ns: u64::MAX,
        when_down: dz_common::gate::Action::Pass,
        when_never_up: dz_common::gate::Action::Pass,
        ttl: 64,
        tos: 0xc0,
        route_protocols: [0; 4],
    })?;
    kernel.set_beat(monotonic_ns())?;
    for slot in 0..SLOTS {
        kernel.set_deadline(slot, &free(key(0)))?;
    }
    Ok(kernel)
}

/// The seed of a run, shown with whatever fails.
pub(crate) fn seed(test: &str) -> anyhow::Result<u64> {
    let seed = match std::env::var("DZ_SEED") {
        Ok(text) => text.parse().with_context(|| format!("DZ_SEED={text}"))?,
        Err(_) => monotonic_ns(),
    };
    println!("{test}: DZ_SEED={seed}");
    Ok(seed)
}

pub(crate) const fn key(peer: u16) -> SessionKey {
    let [high, low] = peer.to_be_bytes();
    SessionKey {
        ifindex: IFINDEX,
        local: LOCAL,
        peer: [10, 9, high, low],
    }
}

/// A slot of a session that has no deadline.
pub(crate) const fn free(key: SessionKey) -> Deadline {
    Deadline {
        deadline_ns: NEVER_NS,
        key,
        next_due: 0,
    }
}

/// Our detection multiplier, and the shortest interval at which we want to receive.
pub(crate) const fn timers(detect_mult: u8, required_min_rx_us: u32) -> Timers {
    Timers {
        detect_mult,
        required_min_rx_us,
        floor_us: FLOOR_US,
        ..Timers::DEFAULT
    }
}

/// A session as the agent inserts it. `generation` is its discriminator, too.
pub(crate) fn entry(key: SessionKey, slot: u32, generation: u32, timers: Timers) -> SessionEntry {
    SessionEntry::new(
        Identity {
            key,
            slot,
            generation,
            block: 0,
            seed: generation | 1,
        },
        Session::new(timers, generation, monotonic_ns()),
    )
}

/// Gives a session its slot and inserts it, in the agent's order.
pub(crate) fn insert(kernel: &mut Kernel, entry: &SessionEntry) -> anyhow::Result<()> {
    // Any number: until the session answers nobody touches it.
    let slot = Deadline {
        next_due: entry.generation,
        ..free(entry.key)
    };
    kernel.set_deadline(entry.slot, &slot)?;
    kernel.insert_session(entry)
}

/// The discriminator of a peer.
pub(crate) const fn peer_discr(key: &SessionKey) -> u32 {
    PEER_DISCR | (key.peer[2] as u32) << 8 | key.peer[3] as u32
}

/// A frame from a session's peer, which is Up. If `your_discr` is ours, the session comes Up.
pub(crate) fn frame(key: &SessionKey, your_discr: u32, desired_min_tx_us: u32) -> Vec<u8> {
    let packet = Packet {
        state: State::Up,
        detect_mult: 3,
        my_discr: peer_discr(key),
        your_discr,
        desired_min_tx_us,
        required_min_rx_us: 1_000_000,
        passive: false,
        version: Version::new([9, 9, 9, 0]),
        reserved_set: false,
    };
    let from = SocketAddrV4::new(key.peer.into(), LIVENESS_PORT);
    let to = SocketAddrV4::new(key.local.into(), LIVENESS_PORT);
    let datagram = Datagram::new(from, to, packet.encode()).build();
    let source = [2, 0, 0, 0, 0, 9];
    ethernet([0; 6], source, EtherType::IPV4, &datagram, false)
}

/// Runs frames, on any thread.
pub(crate) struct Sender {
    programs: [OwnedFd; 2],
    after: [u8; 256],
}

impl Sender {
    pub(crate) fn new(kernel: &Kernel) -> anyhow::Result<Self> {
        Ok(Self {
            programs: [
                kernel.ethernet().try_clone_to_owned()?,
                kernel.xdp().try_clone_to_owned()?,
            ],
            after: [0; 256],
        })
    }

    /// Runs one of the programs over a frame.
    pub(crate) fn send(&mut self, rng: &Rng, frame: &[u8]) -> anyhow::Result<()> {
        let program = &self.programs[rng.index(self.programs.len())];
        test_run(program.as_fd(), frame, &[], &mut self.after).context("BPF_PROG_TEST_RUN")?;
        Ok(())
    }
}
