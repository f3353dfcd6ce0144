//! The rules marked *ours*: each vector passes with ours, and fails with the deployed variant of
//! the rule.

use crate::node::{Habit, Node};
use crate::support::{CONFIG, FAST, FAST_NS, OURS, PEERS, Rng, START_NS, entry, packet};
use dz_common::deployed::{Deployed, Release};
use dz_common::map::SessionEntry;
use dz_common::pacing::jittered_ns;
use dz_common::packet::{PACKET_LEN, Packet, Reject, State};
use dz_common::session::{NS_PER_US, Session, Timers};

const RESTARTED: u32 = 0x3333_3333;

/// One end, by whose rules.
#[derive(Clone)]
enum End {
    Ours(Box<SessionEntry>),
    Deployed(Deployed),
}

impl End {
    fn ours(discr: u32, now_ns: u64) -> Self {
        Self::Ours(Box::new(entry(Session::new(FAST, discr, now_ns), 1)))
    }

    fn deployed(discr: u32, now_ns: u64) -> Self {
        Self::Deployed(Deployed::new(FAST, discr, Release::Since0_32, now_ns))
    }

    fn session(&self) -> &Session {
        match self {
            Self::Ours(entry) => &entry.session,
            Self::Deployed(end) => &end.session,
        }
    }

    fn expire(&mut self, now_ns: u64) -> bool {
        match self {
            Self::Ours(entry) => entry.session.expire(now_ns),
            Self::Deployed(end) => end.expire(now_ns),
        }
    }

    fn transmit(&mut self, now_ns: u64) -> Packet {
        match self {
            Self::Ours(entry) => {
                entry.session.transmitted(now_ns, 0);
                entry.session.packet(CONFIG.version)
            }
            Self::Deployed(end) => {
                end.session.transmitted(now_ns, 0);
                end.packet(CONFIG.version)
            }
        }
    }

    /// Receives a packet; returns the answer.
    fn receive(&mut self, packet: &Packet, now_ns: u64) -> Option<Packet> {
        match self {
            Self::Ours(entry) => entry.receive(packet, &CONFIG, now_ns, true).answer,
            Self::Deployed(end) => {
                end.receive(packet, now_ns);
                None
            }
        }
    }
}

/// Lets both ends send once per interval, and answer, for four minutes, or until both are Up.
fn meet(a: &mut End, b: &mut End, now_ns: &mut u64) -> bool {
    for _ in 0..240 * 20 {
        *now_ns += FAST_NS;
        for end in [&mut *a, &mut *b] {
            end.expire(*now_ns);
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut *a, &mut *b];
            let (mut from, mut to) = (from, to);
            let mut under_way = Some(ends[from].transmit(*now_ns));
            while let Some(packet) = under_way {
                under_way = ends[to].receive(&packet, *now_ns);
                (from, to) = (to, from);
            }
        }
        if [&*a, &*b]
            .iter()
            .all(|end| end.session().state == State::Up)
        {
            return true;
        }
    }
    false
}

/// Two ends that have been Up for a while.
fn settled(mut a: End, mut b: End) -> (End, End, u64) {
    let mut now_ns = START_NS;
    for _ in 0..10 {
        assert!(meet(&mut a, &mut b, &mut now_ns));
    }
    (a, b, now_ns)
}

/// The deployed client holds on to the discriminator that it learned, unless it is Up when the peer comes
/// with another one.
#[test]
fn a_peer_restarted_with_a_new_discriminator_comes_back() {
    let comes_back = |a: End, noticed: bool| {
        let b = End::deployed(PEERS, START_NS);
        let (mut a, _, mut now_ns) = settled(a, b);
        if noticed {
            now_ns += 10 * FAST_NS;
            assert!(a.expire(now_ns));
        }
        let mut restarted = End::deployed(RESTARTED, now_ns);
        meet(&mut a, &mut restarted, &mut now_ns)
    };
    for noticed in [false, true] {
        assert!(comes_back(End::ours(OURS, START_NS), noticed));
    }
    assert!(
        !comes_back(End::deployed(OURS, START_NS), true),
        "the deployed variant must fail this"
    );
}

#[test]
fn ours_restarted_comes_back_against_a_peer_that_clings() {
    let comes_back = |a: End, mut restarted: End| {
        let (_, mut b, mut now_ns) = settled(a, End::deployed(PEERS, START_NS));
        now_ns += 10 * FAST_NS;
        assert!(b.expire(now_ns));
        meet(&mut restarted, &mut b, &mut now_ns)
    };
    assert!(comes_back(
        End::ours(OURS, START_NS),
        End::ours(RESTARTED, START_NS)
    ));
    assert!(
        !comes_back(
            End::deployed(OURS, START_NS),
            End::deployed(RESTARTED, START_NS)
        ),
        "the deployed variant must fail this"
    );
}

/// Whether the peer has noticed or not, and whoever it is.
#[test]
fn ours_restarted_comes_back_at_once() {
    for noticed in [false, true] {
        for b in [End::ours(PEERS, START_NS), End::deployed(PEERS, START_NS)] {
            let (_, mut b, mut now_ns) = settled(End::ours(OURS, START_NS), b);
            if noticed {
                now_ns += 10 * FAST_NS;
                assert!(b.expire(now_ns));
            }
            let before_ns = now_ns;
            let mut restarted = End::ours(RESTARTED, now_ns);
            assert!(meet(&mut restarted, &mut b, &mut now_ns));
            assert!(now_ns <= before_ns + 4 * FAST_NS, "{noticed}");
        }
    }
}

/// Two packets made ours what they echoed, once: whoever echoed what he liked spoke for the peer.
#[test]
fn no_discriminator_is_ever_taken_from_an_echo() {
    for state in State::ALL {
        let mut session = crate::support::session_in(state, START_NS);
        for at_ns in 0..10 {
            for said in State::ALL {
                session.receive(&packet(said, 0xaaaa_0001), START_NS + at_ns);
            }
        }
        assert_eq!((session.local_discr, session.state), (OURS, state));
    }
}

/// The deployed client's decoder reads multiplier 0 as 1 and takes any discriminator.
fn deployed_decode(bytes: &[u8; PACKET_LEN]) -> Result<Packet, Reject> {
    let mut lenient = *bytes;
    lenient[2] = lenient[2].max(1);
    let zero = lenient[4..8] == [0; 4];
    if zero {
        lenient[7] = 1;
    }
    let mut packet = Packet::decode(&lenient)?;
    packet.detect_mult = bytes[2];
    packet.my_discr = if zero { 0 } else { packet.my_discr };
    Ok(packet)
}

#[test]
fn multiplier_zero_is_dropped() {
    let mut bytes = packet(State::Up, OURS).encode();
    bytes[2] = 0;
    assert_eq!(Packet::decode(&bytes), Err(Reject::ZeroMultiplier));
    assert!(
        deployed_decode(&bytes).is_ok(),
        "the deployed variant must fail this"
    );
}

#[test]
fn sender_discriminator_zero_is_dropped() {
    let mut bytes = packet(State::Up, OURS).encode();
    bytes[4..8].fill(0);
    assert_eq!(Packet::decode(&bytes), Err(Reject::ZeroDiscriminator));
    assert!(
        deployed_decode(&bytes).is_ok(),
        "the deployed variant must fail this"
    );
}

/// The longest interval that a session with these timers waits while Down, µs.
fn slowest_while_down(timers: Timers) -> u32 {
    let mut session = Session::new(timers, OURS, START_NS);
    (0..64)
        .map(|i| session.transmitted(START_NS + i * 100_000 * NS_PER_US, 0))
        .max()
        .unwrap()
}

#[test]
fn backoff_is_capped_at_five_seconds() {
    assert_eq!(slowest_while_down(Timers::DEFAULT), 5_000_000);
    let deployed = Timers {
        backoff_cap_us: 60_000_000,
        ..Timers::DEFAULT
    };
    assert_eq!(
        slowest_while_down(deployed),
        60_000_000,
        "the deployed variant must fail this"
    );

    let mut session = Session::new(Timers::DEFAULT, OURS, START_NS);
    let steps = [1, 2, 4, 5, 5].map(|seconds| seconds * 1_000_000);
    assert_eq!(steps.map(|_| session.transmitted(START_NS, 0)), steps);
}

/// RFC 5880 §6.8.7: with multiplier 1 a single late packet would pass the deadline.
#[test]
fn multiplier_one_transmits_10_to_25_percent_early() {
    let base_ns = 1_000_000 * NS_PER_US;
    let early = |at: fn(u32) -> u64| {
        (0..=u32::MAX)
            .step_by(1 << 20)
            .chain([u32::MAX])
            .all(|random| (base_ns * 75 / 100..=base_ns * 90 / 100).contains(&at(random)))
    };
    assert!(early(|random| jittered_ns(1_000_000, 1, random)));
    // The deployed client has ±10 % whatever the multiplier, as ours has with any other.
    assert!(
        !early(|random| jittered_ns(1_000_000, 3, random)),
        "the deployed variant must fail this"
    );
}

/// How many transmissions a flood of 500 state changes inside one interval causes.
fn sent_during_flood(announces_every_change: bool) -> usize {
    let mut rng = Rng::new(7);
    let mut node = Node::new(FAST, OURS, Habit::Answering, START_NS, &mut rng);
    for i in 0..500 {
        let now_ns = START_NS + i * (FAST_NS / 500);
        let state = if i % 2 == 0 {
            State::Down
        } else {
            State::AdminDown
        };
        let changes = node.changes.len();
        let sent = node.sent.len();
        node.receive(&packet(state, OURS), now_ns);
        node.tick(now_ns);
        if announces_every_change && node.changes.len() > changes && node.sent.len() == sent {
            node.sent.push((now_ns, node.state()));
        }
    }
    assert_eq!(node.changes.len(), 500);
    node.sent.len()
}

#[test]
fn a_flood_of_state_changes_does_not_drive_our_rate() {
    assert!((1..=3).contains(&sent_during_flood(false)));
    assert!(
        sent_during_flood(true) > 3,
        "the deployed variant must fail this"
    );
}
