//! What a wire can bring, at every attach point: the stated counter moves by one, nothing else
//! changes, no state is created, and what is not ours arrives unharmed.

mod answered;
mod bed;
mod case;
mod flips;
mod foreign;
mod hops;
mod liveness;
mod peer;
mod refused;
mod segments;
mod session;
mod states;
mod unknown;
mod unreachable;
mod vlan;
mod watch;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use dz_tests::harness::{self, Requirement, Test};

use bed::{Attach, Bed};

type Run = fn(&Bed) -> Result<()>;

const EVERYWHERE: [(&str, Run); 8] = [
    ("refused", refused::test),
    ("foreign", foreign::test),
    ("answered", answered::test),
    ("states", states::test),
    ("flips::down_and_init", flips::down_and_init),
    ("flips::down_and_up", flips::down_and_up),
    ("flips::blind_while_down", flips::blind_while_down),
    ("flips::blind_while_up", flips::blind_while_up),
];

/// The tests of an attach point share an agent, for it takes the kernel a second to verify its
/// programs; each has peers of its own.
#[derive(Default)]
struct Shared(Mutex<Option<Bed>>);

impl Shared {
    /// Runs a test. One that fails takes the agent with it, whose log then belongs to the failure,
    /// and does not spoil the next one.
    fn run(&self, attach: Attach, run: Run) -> Result<()> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bed = match shared.take() {
            Some(bed) => bed,
            None => Bed::new(attach, &[])?,
        };
        run(&bed)?;
        *shared = Some(bed);
        Ok(())
    }
}

fn unknown_pass(attach: Attach) -> Result<()> {
    unknown::test(&Bed::new(attach, &["--unknown=pass"])?)
}

fn hops(attach: Attach) -> Result<()> {
    hops::test(&Bed::new(attach, &hops::OPTIONS)?)
}

fn main() -> ExitCode {
    let attach_points = Attach::ALL.map(|attach| (attach, Arc::new(Shared::default())));
    let mut tests = Vec::new();
    // Next to each other are tests that can run side by side.
    for (name, run) in EVERYWHERE {
        for (attach, shared) in &attach_points {
            tests.push(shared_test(*attach, shared, name, &[], run));
        }
    }
    // A layer-3 device carries no tags.
    for (attach, shared) in attach_points
        .iter()
        .filter(|(attach, _)| attach.is_ethernet())
    {
        let mut add = |name, besides: &[Requirement], run| {
            tests.push(shared_test(*attach, shared, name, besides, run));
        };
        add("unreachable", &[], unreachable::test);
        add("vlan::untouched", &[], vlan::untouched);
        let kind = Requirement::LinkKind("vlan");
        add("vlan::sub_interface", &[kind], vlan::sub_interface);
    }
    for attach in Attach::ALL {
        let name = format!("{}::unknown_pass", attach.name());
        tests.push(Test::new(name, &attach.requirements(), move || {
            unknown_pass(attach)
        }));
        let name = format!("{}::hops", attach.name());
        tests.push(Test::new(name, &attach.requirements(), move || {
            hops(attach)
        }));
    }
    for attach in [Attach::TcEthernet, Attach::XdpNative, Attach::XdpGeneric] {
        let name = format!("{}::segments", attach.name());
        tests.push(Test::new(name, &attach.requirements(), move || {
            segments::packets(attach)
        }));
    }
    let name = format!("{}::segments_of_one", Attach::TcEthernet.name());
    let needs = Attach::TcEthernet.requirements();
    tests.push(Test::new(name, &needs, segments::halves));
    // Whoever runs last takes the agent down.
    drop(attach_points);
    harness::run(tests)
}

fn shared_test(
    attach: Attach,
    shared: &Arc<Shared>,
    name: &str,
    besides: &[Requirement],
    run: Run,
) -> Test {
    let mut requirements = attach.requirements();
    requirements.extend(besides);
    let shared = Arc::clone(shared);
    let name = format!("{}::{name}", attach.name());
    Test::new(name, &requirements, move || shared.run(attach, run))
}
