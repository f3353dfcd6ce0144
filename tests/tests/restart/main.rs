//! Restarts: a thousand sessions, and nobody notices that the agent was gone; what they notice when
//! it was told to go, or stayed away too long, and how they come back.

mod back;
mod crowd;
mod cut_short;
mod grace;
mod layout_1;
mod layout_4;
mod needs;
mod off_xdp;
mod settings;
mod unnoticed;
mod upgrade;
mod witness;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = unnoticed::tests();
    tests.extend(upgrade::tests());
    tests.extend(off_xdp::tests());
    tests.extend(cut_short::tests());
    tests.extend(back::tests());
    tests.extend(grace::tests());
    tests.extend(settings::tests());
    run(tests)
}
