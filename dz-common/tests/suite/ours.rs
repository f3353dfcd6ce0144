//! The rules marked *ours*: each vector passes with ours, and fails with the deployed variant of
//! the rule, which stands here as a thin layer around the same session.

use crate::node::{Habit, Node};
use crate::support::{FAST, FAST_NS, OURS, PEERS, Rng, START_NS, packet, session_in};
use dz_common::pacing::jittered_ns;
use dz_common::packet::{PACKET_LEN, Packet, Reject, State, Version};
use dz_common::session::{NS_PER_US, Receipt, Session, Timers};

/// Which rules of one end are the deployed client's.
#[derive(Clone, Copy, Default)]
struct Rules {
    /// Learns the peer's discriminator only while Up or when it knows none.
    clings: bool,
    /// Never makes another discriminator its own.
    never_adopts: bool,
}

const OWN: Rules = Rules {
    clings: false,
    never_adopts: false,
};
const DEPLOYED: Rules = Rules {
    clings: true,
    never_adopts: true,
};

#[derive(Clone)]
struct End {
    session: Session,
    rules: Rules,
}

impl End {
    fn new(rules: Rules, discr: u32, now_ns: u64) -> Self {
        Self {
            session: Session::new(FAST, discr, now_ns),
            rules,
        }
    }

    fn receive(&mut self, packet: &Packet, now_ns: u64) {
        let before = self.session;
        if self.session.receive(packet, now_ns) != Receipt::Accepted && !self.rules.never_adopts {
            return;
        }
        let foreign = packet.your_discr != 0 && packet.your_discr != before.local_discr;
        if self.rules.never_adopts && foreign {
            self.session = before;
        } else if self.rules.clings && before.state != State::Up && before.peer_discr != 0 {
            self.session.peer_discr = before.peer_discr;
        }
    }
}

/// Lets both ends send once per interval for four minutes, or until both are Up.
fn meet(a: &mut End, b: &mut End, now_ns: &mut u64) -> bool {
    for _ in 0..240 * 20 {
        *now_ns += FAST_NS;
        for end in [&mut *a, &mut *b] {
            end.session.expire(*now_ns);
        }
        let from_a = a.session.packet(Version::new([0; 4]));
        b.receive(&from_a, *now_ns);
        let from_b = b.session.packet(Version::new([0; 4]));
        a.receive(&from_b, *now_ns);
        if a.session.state == State::Up && b.session.state == State::Up {
            return true;
        }
    }
    false
}

/// Two ends that have been Up for a while.
fn settled(a: Rules, b: Rules) -> (End, End, u64) {
    let mut now_ns = START_NS;
    let (mut a, mut b) = (End::new(a, OURS, now_ns), End::new(b, PEERS, now_ns));
    assert!(meet(&mut a, &mut b, &mut now_ns));
    for _ in 0..10 {
        assert!(meet(&mut a, &mut b, &mut now_ns));
    }
    (a, b, now_ns)
}

#[test]
fn a_peer_restarted_with_a_new_discriminator_comes_back() {
    let comes_back = |rules| {
        let (mut a, _, mut now_ns) = settled(rules, DEPLOYED);
        let mut restarted = End::new(DEPLOYED, 0x3333_3333, now_ns);
        meet(&mut a, &mut restarted, &mut now_ns)
    };
    assert!(comes_back(OWN));
    assert!(
        !comes_back(Rules {
            clings: true,
            ..OWN
        }),
        "the deployed variant must fail this"
    );
    assert!(!comes_back(DEPLOYED));
}

#[test]
fn ours_restarted_comes_back_against_a_peer_that_clings() {
    let comes_back = |rules| {
        let (_, mut b, mut now_ns) = settled(rules, DEPLOYED);
        let mut restarted = End::new(rules, 0x3333_3333, now_ns);
        meet(&mut restarted, &mut b, &mut now_ns)
    };
    assert!(comes_back(OWN));
    assert!(
        !comes_back(Rules {
            never_adopts: true,
            ..OWN
        }),
        "the deployed variant must fail this"
    );
    assert!(!comes_back(DEPLOYED));
}

/// Also when the clinging peer has noticed and is Down itself, and when both ends are ours.
#[test]
fn ours_restarted_comes_back_after_the_peer_has_gone_down() {
    for peer in [OWN, DEPLOYED] {
        let (_, mut b, mut now_ns) = settled(OWN, peer);
        now_ns += 10 * FAST_NS;
        assert!(b.session.expire(now_ns));
        let mut restarted = End::new(OWN, 0x3333_3333, now_ns);
        assert!(meet(&mut restarted, &mut b, &mut now_ns));
    }
}

/// Feeds echoes in this order and says which discriminator is ours afterwards.
fn discr_after(state: State, echoes: &[u32]) -> u32 {
    let mut session = session_in(state, START_NS);
    for (i, &your_discr) in echoes.iter().enumerate() {
        session.receive(&packet(State::AdminDown, your_discr), START_NS + i as u64);
    }
    session.local_discr
}

#[test]
fn adoption_takes_two_consecutive_equal_echoes_while_down() {
    const X: u32 = 0xaaaa_0001;
    const Y: u32 = 0xaaaa_0002;
    assert_eq!(discr_after(State::Down, &[X, X]), X);
    assert_eq!(discr_after(State::Down, &[Y, X, X]), X);
    assert_eq!(
        discr_after(State::Down, &[X, X, Y]),
        X,
        "one more is again only one"
    );
    assert_eq!(discr_after(State::Down, &[X, X, Y, Y]), Y);

    assert_eq!(discr_after(State::Down, &[X]), OURS, "one is not enough");
    assert_eq!(discr_after(State::Down, &[X, Y]), OURS, "two different");
    assert_eq!(
        discr_after(State::Down, &[X, Y, X, Y]),
        OURS,
        "taking turns"
    );
    assert_eq!(
        discr_after(State::Down, &[X, 0, X]),
        OURS,
        "not consecutive: 0 between"
    );
    assert_eq!(
        discr_after(State::Down, &[X, OURS, X]),
        OURS,
        "not consecutive: ours between"
    );
    assert_eq!(discr_after(State::AdminDown, &[X, X, X]), OURS, "AdminDown");
    assert_eq!(discr_after(State::Init, &[X, X, X]), OURS, "Init");
    assert_eq!(discr_after(State::Up, &[X, X, X]), OURS, "Up");
}

/// One echo before leaving Down does not count after the next return to it.
#[test]
fn an_echo_from_an_earlier_down_does_not_count() {
    const X: u32 = 0xaaaa_0001;
    let mut session = session_in(State::Down, START_NS);
    session.receive(&packet(State::Down, X), START_NS);
    session.admin_down(START_NS);
    session.admin_up(START_NS);
    assert_eq!(
        session.receive(&packet(State::Down, X), START_NS),
        Receipt::WrongDiscriminator
    );
    assert_eq!(session.local_discr, OURS);
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
