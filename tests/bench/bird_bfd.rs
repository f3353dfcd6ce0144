//! The baseline that people run: BIRD's BFD.

use std::fmt::Write;

use dz_tests::bed::HERE;
use dz_tests::bird::Bird;
use dz_tests::netns::Netns;

use crate::crowd::{Timing, peer};

/// Starts it with a session to each of so many peers, several hops away.
pub(crate) fn start(netns: &Netns, sessions: u32, timing: Timing) -> anyhow::Result<Bird> {
    let Timing {
        interval_ms,
        detect_mult,
    } = timing;
    let mut text = format!(
        "log stderr {{ warning, error, fatal }};\n\
         router id {HERE};\n\
         protocol device {{}}\n\
         protocol bfd {{\n\
         \x20 multihop {{\n\
         \x20   interval {interval_ms} ms; idle tx interval {interval_ms} ms;\n\
         \x20   multiplier {detect_mult};\n\
         \x20 }};\n"
    );
    for number in 0..sessions {
        writeln!(
            text,
            "  neighbor {} local {HERE} multihop on;",
            peer(number)
        )?;
    }
    text += "}\n";
    Bird::start_with(netns, &text)
}

/// How many sessions are Up.
pub(crate) fn up(bird: &Bird) -> anyhow::Result<u32> {
    let shown = bird.ask("show bfd sessions")?;
    let states = shown
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2));
    Ok(u32::try_from(
        states.filter(|state| *state == "Up").count(),
    )?)
}
