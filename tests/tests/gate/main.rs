//! The gate: what leaves for a peer that is not Up goes where the policy says, and not one packet
//! into the tunnel, whatever the agent does meanwhile.

mod detours;
mod flips;
mod flows;
mod own;
mod scene;
mod sizes;
mod verdicts;

use std::process::ExitCode;

use dz_tests::harness::{Test, run};

use scene::{Kind, NEEDS};

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for kind in Kind::ALL {
        let name = format!("verdicts::{}", kind.name());
        tests.push(Test::new(&name, &NEEDS, move || verdicts::all(kind)));
    }
    tests.extend(flows::tests());
    tests.extend(flips::tests());
    tests.extend(own::tests());
    tests.extend(detours::tests());
    tests.extend(sizes::tests());
    run(tests)
}
