//! Restarts that a thousand peers do not notice: none flaps at either end, no route is touched, and
//! every packet of theirs meets a program of ours.

use anyhow::{Context, Result, ensure};
use dz_tests::agent::{Agent, Home};
use dz_tests::bpftool;
use dz_tests::harness::{Requirement, Test};
use nix::sys::signal::Signal;

use crate::crowd::Crowd;
use crate::needs::NEEDS;
use crate::witness::{Witness, seen};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("unnoticed::sigusr2", &NEEDS, || {
            restart(|agent| agent.end(Signal::SIGUSR2))
        }),
        Test::new("unnoticed::killed", &NEEDS, || restart(Agent::crash)),
        Test::new("unnoticed::again_and_again", &NEEDS, again_and_again),
    ]
}

fn restart(stop: impl FnOnce(Agent) -> Result<Home>) -> Result<()> {
    let crowd = Crowd::new("restart")?;
    let agent = crowd.start(Home::new()?)?;
    crowd.connect(&agent)?;
    let witness = Witness::new(&crowd, seen(agent.home())?)?;
    let before = attached(&crowd, agent.home())?;
    let home = stop(agent)?;
    // While nobody is there, and then with the next one.
    witness.until_answered(3)?;
    let agent = crowd.start(home)?;
    witness.until_heard(agent.home(), 5)?;
    let after = attached(&crowd, agent.home())?;
    ensure!(after.link == before.link, "another link: {after:?}");
    ensure!(after.program != before.program, "the same old program");
    println!("{before:?}, then {after:?}");
    let shown = agent.json(&["sessions", "--json"])?;
    let shown = shown["sessions"].as_array().context("no sessions")?;
    ensure!(shown.iter().all(|session| session["state"] == "up"));
    witness.nothing_happened(agent.home())?;
    Ok(())
}

/// Without a pause, as a supervisor that has lost patience would.
fn again_and_again() -> Result<()> {
    const ROUNDS: usize = 10;
    let crowd = Crowd::new("again")?;
    let mut agent = crowd.start(Home::new()?)?;
    crowd.connect(&agent)?;
    let witness = Witness::new(&crowd, seen(agent.home())?)?;
    for round in 0..ROUNDS {
        let home = match round % 2 {
            0 => agent.crash()?,
            _ => agent.end(Signal::SIGUSR2)?,
        };
        agent = crowd.start(home)?;
    }
    witness.until_heard(agent.home(), 3)?;
    witness.until_answered(3)?;
    witness.nothing_happened(agent.home())?;
    Ok(())
}

/// Kernel ids of a link and of the program in it. Below Linux 6.6 there is a filter and no link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) link: Option<u64>,
    pub(crate) program: u64,
}

/// What is at ingress: in the pinned link, or in the filter.
pub(crate) fn attached(crowd: &Crowd, home: &Home) -> Result<Attached> {
    if Requirement::Kernel(6, 6).missing().is_some() {
        let line = format!("tc filter show dev {} ingress", crowd.interface);
        let shown = crowd.bed.here.command(&line)?;
        let words: Vec<_> = shown.split_whitespace().collect();
        let mut ids = words.windows(2).filter(|words| words[0] == "id");
        let (id, more) = (ids.next().with_context(|| shown.clone())?, ids.next());
        ensure!(more.is_none(), "more than one: {shown}");
        let program = id[1].parse()?;
        return Ok(Attached {
            link: None,
            program,
        });
    }
    let pin = home.pin_dir().join("link_tc_doublezero0");
    let shown = bpftool::json(&["link", "show", "pinned", &pin.to_string_lossy()])?;
    let id = |name: &str| shown[name].as_u64().with_context(|| format!("{shown}"));
    Ok(Attached {
        link: Some(id("id")?),
        program: id("prog_id")?,
    })
}
