//! Random numbers that can be replayed, and packets to feed in.

use dz_common::entry::Identity;
use dz_common::map::{Config, SessionEntry, SessionKey};
use dz_common::packet::{Packet, State, Version};
use dz_common::session::{NS_PER_US, Session, Timers};

pub(crate) const MS: u64 = 1_000 * NS_PER_US;
/// Our discriminator and the peer's in every test that does not say otherwise.
pub(crate) const OURS: u32 = 0x1111_1111;
pub(crate) const PEERS: u32 = 0x2222_2222;
/// A discriminator that is nobody's.
pub(crate) const OTHER: u32 = 0x7777_7777;
/// An instant long after boot, so that subtractions have room.
pub(crate) const START_NS: u64 = 1_000_000_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014): every seed gives a different, full-length sequence.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform over `0..bound` (`bound` far below 2⁶⁴: the bias does not matter here).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn u32(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    pub(crate) fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Runs `test` for each of `count` seeds. The seed of a failure is printed.
pub(crate) fn for_seeds(count: u64, test: impl Fn(&mut Rng)) {
    struct Replay(u64);
    impl Drop for Replay {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("replay with DZ_SEED={}", self.0);
            }
        }
    }
    let one: Option<u64> = std::env::var("DZ_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    for seed in one.map_or(0..count, |seed| seed..seed + 1) {
        let replay = Replay(seed);
        test(&mut Rng::new(seed));
        drop(replay);
    }
}

/// A packet of the peer at its defaults.
pub(crate) fn packet(state: State, your_discr: u32) -> Packet {
    Packet {
        state,
        detect_mult: 3,
        my_discr: PEERS,
        your_discr,
        desired_min_tx_us: 50_000,
        required_min_rx_us: 50_000,
        passive: false,
        version: Version::new([0, 34, 0, 0]),
        reserved_set: false,
    }
}

/// 50 ms, multiplier 3: a transmit interval of 50 ms against [`packet`].
pub(crate) const FAST: Timers = Timers {
    desired_min_tx_us: 50_000,
    required_min_rx_us: 50_000,
    ..Timers::DEFAULT
};
/// The transmit interval of [`FAST`].
pub(crate) const FAST_NS: u64 = 50 * MS;

/// A session in the given state, entered now, that has transmitted it long ago.
pub(crate) fn session_in(state: State, now_ns: u64) -> Session {
    let mut session = Session::new(FAST, OURS, now_ns);
    match state {
        State::AdminDown => _ = session.admin_down(now_ns),
        State::Down => {}
        State::Init => _ = session.receive(&packet(State::Down, OURS), now_ns),
        State::Up => _ = session.receive(&packet(State::Init, OURS), now_ns),
    }
    assert_eq!(session.state, state);
    session
}

/// An entry around a session, as in the map.
pub(crate) fn entry(session: Session, random: u32) -> SessionEntry {
    SessionEntry::new(
        Identity {
            key: SessionKey {
                ifindex: 1,
                local: [10, 0, 0, 1],
                peer: [10, 0, 0, 2],
            },
            slot: 0,
            generation: 1,
            block: 1,
            seed: random | 1,
        },
        session,
    )
}

pub(crate) const CONFIG: Config = Config {
    abi_version: dz_common::map::ABI_VERSION,
    port: dz_common::LIVENESS_PORT,
    unknown_pass: 0,
    ignore_peer_passive: 0,
    version: Version::new([1, 2, 3, 0]),
    groups: 1,
    grace_ns: 30_000 * MS,
    when_down: dz_common::gate::Action::Pass,
    when_never_up: dz_common::gate::Action::Pass,
    ttl: 64,
    tos: 0xc0,
    route_protocols: [0; 4],
};
