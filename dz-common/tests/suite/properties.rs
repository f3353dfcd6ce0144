//! What holds after every step, whatever the steps.

use crate::support::{CONFIG, OURS, PEERS, Rng, START_NS, entry, for_seeds};
use dz_common::counters::Counter;
use dz_common::entry::Transition;
use dz_common::map::SessionEntry;
use dz_common::pacing::Tick;
use dz_common::packet::{Packet, State, Version};
use dz_common::session::{Mode, NS_PER_US, Session, Timers};

struct Walk {
    entry: SessionEntry,
    now_ns: u64,
    sent_ns: Vec<u64>,
    /// When a stranger was last answered, and when a peer that came back was; and ¾ of the shortest interval
    /// since.
    introduced_ns: [(u64, u64); 2],
    /// A packet has echoed our discriminator since the session was last Down.
    echoed: bool,
}

fn any_interval(rng: &mut Rng) -> u32 {
    rng.pick(&[0, 1, 999, 50_000, 300_000, 1_000_000, 3_000_000, u32::MAX])
}

fn any_timers(rng: &mut Rng) -> Timers {
    let floor_us = rng.pick(&[1, 1_000, 50_000]);
    Timers {
        desired_min_tx_us: any_interval(rng),
        required_min_rx_us: any_interval(rng),
        floor_us,
        ceiling_us: rng.pick(&[floor_us, 1_000_000, 3_000_000, u32::MAX]),
        backoff_cap_us: rng.pick(&[0, 1, 3_000_000, 5_000_000, 60_000_000, u32::MAX]),
        detect_mult: rng.pick(&[1, 2, 3, 255]),
        mode: rng.pick(&[Mode::Active, Mode::Passive]),
        min_ttl: rng.byte(),
        reserved: 0,
    }
}

fn any_packet(rng: &mut Rng, local_discr: u32) -> Packet {
    Packet {
        state: rng.pick(&State::ALL),
        detect_mult: rng.byte().max(1),
        my_discr: rng.pick(&[PEERS, PEERS + 1, u32::MAX]),
        your_discr: rng.pick(&[0, local_discr, local_discr, local_discr, OURS, 5, 6]),
        desired_min_tx_us: any_interval(rng),
        required_min_rx_us: any_interval(rng),
        passive: rng.chance(50),
        version: Version::new([rng.byte(), 0, 0, rng.byte()]),
        reserved_set: rng.chance(10),
    }
}

impl Walk {
    fn new(rng: &mut Rng) -> Self {
        let session = Session::new(any_timers(rng), OURS, START_NS);
        Self {
            entry: entry(session, rng.u32()),
            now_ns: START_NS,
            sent_ns: vec![],
            introduced_ns: [(0, 0); 2],
            echoed: false,
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        let before = self.entry.session;
        let interval_ns = u64::from(before.tx_interval_us()) * NS_PER_US;
        self.now_ns += match rng.below(4) {
            0 => 0,
            1 => rng.below(1_000),
            2 => rng.below(interval_ns),
            _ => rng.below(interval_ns * 5),
        };
        let transition = match rng.below(20) {
            0 => self.entry.admin_down(self.now_ns),
            1 => {
                self.entry.session.admin_up(self.now_ns);
                None
            }
            2..5 => self.entry.expire(self.now_ns),
            5..9 => {
                self.tick();
                None
            }
            _ => self.receive(rng),
        };
        self.check(&before, transition);
    }

    fn receive(&mut self, rng: &mut Rng) -> Option<Transition> {
        let before = self.entry.session;
        let packet = any_packet(rng, before.local_discr);
        let outcome = self
            .entry
            .receive(&packet, &CONFIG, self.now_ns, rng.chance(80));
        let proven = packet.your_discr == before.local_discr;
        if let Some(answer) = outcome.answer {
            assert_eq!(Packet::decode(&answer.encode()), Ok(answer));
        }
        assert_eq!(
            outcome.answer.is_some(),
            matches!(
                outcome.exit,
                Counter::RxAnswered | Counter::RxUnprovenAnswered
            )
        );
        if proven {
            match outcome.exit {
                Counter::RxAnswered => self.sent(),
                exit => assert_ne!(exit, Counter::RxUnprovenAnswered),
            }
        } else {
            assert_eq!(
                self.entry.session, before,
                "{packet:?} is not proven and changed its session"
            );
            self.introduced(&packet, outcome.answer);
        }
        self.echoed |= proven && before.state != State::AdminDown;
        outcome.transition
    }

    /// Notes the answer to a packet that was not proven: one per ¾ interval to whom nobody knows, and
    /// one to whom has the peer's discriminator and is Down; never in AdminDown, nor to AdminDown.
    fn introduced(&mut self, packet: &Packet, answer: Option<Packet>) {
        let Some(answer) = answer else { return };
        let session = &self.entry.session;
        assert!(session.state != State::AdminDown && packet.state != State::AdminDown);
        assert!(
            packet.state == State::Down || packet.your_discr != 0 && session.state != State::Up
        );
        assert_eq!(answer.your_discr, packet.my_discr);
        assert_eq!(answer.my_discr, session.local_discr);
        let told = match session.state {
            State::Up => State::Up,
            _ => State::Init,
        };
        assert_eq!(answer.state, told);
        let known = packet.my_discr == session.peer_discr;
        let returning = usize::from(known && packet.state == State::Down);
        let (last_ns, least_ns) = self.introduced_ns[returning];
        let passed_ns = self.now_ns - last_ns;
        // Stamps are in 1,024 ns.
        assert!(
            passed_ns + 2_048 >= least_ns,
            "{passed_ns} of {least_ns} ns"
        );
        self.introduced_ns[returning] = (self.now_ns, u64::MAX);
    }

    fn tick(&mut self) {
        let random = self.entry.draw();
        let (decision, next_ns) = self.entry.session.tick(self.now_ns, random);
        let interval_ns = u64::from(self.entry.session.tx_interval_us()) * NS_PER_US;
        assert!(next_ns > self.now_ns && next_ns <= self.now_ns + interval_ns);
        if decision == Tick::Send {
            self.sent();
        }
    }

    fn check(&mut self, before: &Session, transition: Option<Transition>) {
        let session = &self.entry.session;
        let timers = &session.timers;
        let pace_ns = u64::from(session.tx_interval_us()) * NS_PER_US / 4 * 3;
        for (_, least_ns) in &mut self.introduced_ns {
            *least_ns = pace_ns.min(*least_ns);
        }
        let changed = before.state != session.state;
        assert_eq!(
            session.detect_deadline_ns != 0,
            matches!(session.state, State::Init | State::Up)
        );
        assert!(
            session.state != State::Up || self.echoed,
            "Up without an echo"
        );
        if session.state == State::Down {
            self.echoed = false;
        }
        assert!(!matches!(session.state, State::Init | State::Up) || session.peer_discr != 0);
        assert_eq!(session.transitions, before.transitions + u32::from(changed));
        assert_eq!(
            session.since_ns,
            if changed {
                self.now_ns
            } else {
                before.since_ns
            }
        );
        assert!(session.local_discr != 0);
        assert_eq!(session.local_discr, before.local_discr);
        assert!(session.echo() == 0 || session.echo() == session.peer_discr);
        assert!(
            Counter::transition(before.state, session.state, session.down_reason).is_some()
                == changed
        );
        if let Some(transition) = transition {
            assert_eq!(
                (transition.from, transition.to),
                (before.state, session.state)
            );
            assert_eq!(transition.sequence, session.transitions);
            assert!(transition.since_ns <= self.now_ns);
        }
        self.check_intervals(timers);
    }

    fn check_intervals(&self, timers: &Timers) {
        let session = &self.entry.session;
        let range = timers.floor_us..=timers.ceiling_us;
        assert!(range.contains(&session.tx_interval_us()));
        assert!(range.contains(&session.rx_interval_us()));
        assert!(session.backoff.is_power_of_two());
        assert!(session.state == State::Down || session.backoff == 1);
        // Doubled only while the product is below the cap, and the interval is never below the floor.
        let cap_us = u64::from(timers.backoff_cap_us);
        let before_last = u64::from(session.backoff / 2) * u64::from(timers.floor_us);
        assert!(cap_us == 0 || session.backoff == 1 || before_last < cap_us);
    }

    /// Notes a transmission: at most three of any kind in any one interval, as it is by now.
    fn sent(&mut self) {
        assert_eq!(self.entry.session.announce, 0);
        self.sent_ns.push(self.now_ns);
        let interval_ns = u64::from(self.entry.session.tx_interval_us()) * NS_PER_US;
        if let [.., fourth_last, _, _, _] = self.sent_ns[..] {
            assert!(
                self.now_ns - fourth_last >= interval_ns,
                "four within one interval"
            );
        }
    }
}

#[test]
fn invariants_hold_after_every_random_step() {
    for_seeds(2_000, |rng| {
        let mut walk = Walk::new(rng);
        for _ in 0..500 {
            walk.step(rng);
        }
    });
}

/// The walk must not be vacuous: it visits every state and every reason.
#[test]
fn random_walks_go_everywhere() {
    let mut seen = std::collections::BTreeSet::new();
    let mut rng = Rng::new(1);
    for _ in 0..200 {
        let mut walk = Walk::new(&mut rng);
        for _ in 0..200 {
            let from = walk.entry.session.state;
            walk.step(&mut rng);
            let session = &walk.entry.session;
            seen.extend(
                Counter::transition(from, session.state, session.down_reason).map(Counter::name),
            );
        }
    }
    assert_eq!(seen.len(), 13, "{seen:?}");
}
