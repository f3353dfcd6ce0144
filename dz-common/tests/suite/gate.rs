//! What the gate makes of every state, mode and policy.

use dz_common::counters::Counter;
use dz_common::gate::{Action, Facts, is_passive};
use dz_common::map::Config;
use dz_common::packet::State;
use dz_common::session::Mode;

use crate::support::CONFIG;

const ACTIONS: [Action; 3] = [Action::Pass, Action::Drop, Action::Reroute];

fn verdict(facts: Facts, when_down: Action, when_never_up: Action) -> (Action, Counter) {
    facts.verdict(&Config {
        when_down,
        when_never_up,
        ..CONFIG
    })
}

#[test]
fn a_peer_that_is_not_up_gets_what_the_policy_says() {
    for state in State::ALL {
        // Held at its first Up, a session has not counted yet.
        for (held, ups, ever_up) in [
            (false, 0, false),
            (false, 1, true),
            (true, 1, state != State::Up),
            (true, 2, true),
        ] {
            for passive in [false, true] {
                for when_down in ACTIONS {
                    for when_never_up in ACTIONS {
                        let facts = Facts {
                            state,
                            held,
                            ups,
                            passive,
                        };
                        let found = verdict(facts, when_down, when_never_up);
                        let policy = if ever_up { when_down } else { when_never_up };
                        let expected = match (state, passive, policy) {
                            (State::Up, ..) if !held => (Action::Pass, Counter::GateUp),
                            (_, true, _) => (Action::Pass, Counter::GatePassive),
                            (.., Action::Drop) => (Action::Drop, Counter::GateDropped),
                            (.., Action::Reroute) => (Action::Reroute, Counter::GateRerouted),
                            (.., Action::Pass) if ever_up => {
                                (Action::Pass, Counter::GateDownPassed)
                            }
                            _ => (Action::Pass, Counter::GateNeverUpPassed),
                        };
                        assert_eq!(found, expected, "{facts:?} {when_down:?} {when_never_up:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_peers_passive_bit_counts_unless_it_is_ignored() {
    for own in [Mode::Active, Mode::Passive] {
        for peer in [Mode::Unknown, Mode::Active, Mode::Passive] {
            for ignore in [false, true] {
                let expected = own == Mode::Passive || (peer == Mode::Passive && !ignore);
                assert_eq!(
                    is_passive(own, peer, ignore),
                    expected,
                    "{own:?} {peer:?} {ignore}"
                );
            }
        }
    }
}
