//! XDP, of which an interface has room for one program.

use anyhow::{Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::harness::{Requirement, Test};
use dz_tests::netns::Netns;
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;

use crate::scene::{TWO_CHECKS, detach, program};

const NEEDS: [Requirement; 4] = [
    Requirement::Root,
    Requirement::Tool("bpftool"),
    Requirement::LinkKind("veth"),
    Requirement::Kernel(6, 6),
];
const NIC: &str = "nic0";
const ATTACH: [&str; 5] = [
    "--interface",
    NIC,
    "--attach",
    "xdp-generic",
    "--metrics-listen=off",
];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("xdp::detached", &NEEDS, detached),
        Test::new("xdp::comes_later", &NEEDS, comes_later),
    ]
}

fn pair(here: &Netns, there: &Netns) -> Result<()> {
    veth::pair(
        &End::new(here, NIC, "192.0.2.1/24"),
        &End::new(there, NIC, "192.0.2.2/24"),
    )?;
    Ok(())
}

/// Waits until the program at ingress was put back so often, and is there.
fn until(agent: &Agent, mended: u64) -> Result<()> {
    eventually(TWO_CHECKS, "the program at ingress as it should be", || {
        let program = program(agent, "ingress")?;
        ensure!(
            program["in_place"] == true && program["mended"] == mended,
            "{program}"
        );
        anyhow::Ok(())
    })
}

fn until_missing(agent: &Agent) -> Result<()> {
    eventually(TWO_CHECKS, "said that it is not there", || {
        let program = program(agent, "ingress")?;
        ensure!(
            program["in_place"] == false && program["error"].is_string(),
            "{program}"
        );
        anyhow::Ok(())
    })
}

/// A link that is detached, and the place taken by somebody else's program until that goes.
fn detached() -> Result<()> {
    let (here, there) = (Netns::new("xdp")?, Netns::new("xdp")?);
    pair(&here, &there)?;
    let agent = Agent::start(&here, &ATTACH)?;
    until(&agent, 0)?;
    let pin = || {
        agent
            .home()
            .pin_dir()
            .join(format!("link_xdp-generic_{NIC}"))
    };
    detach(&pin())?;
    until(&agent, 1)?;
    // Again, if a full check comes between the two.
    let held = eventually(TWO_CHECKS, "somebody else's program in its place", || {
        detach(&pin())?;
        Bare::attach(&here, NIC, Program::EmptyXdp)
    })?;
    until_missing(&agent)?;
    let status = agent.home().command(&["status"])?;
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    ensure!(
        status.status.code() == Some(9) && said.contains("ingress"),
        "{status:?}"
    );
    drop(held);
    eventually(TWO_CHECKS, "back in its place", || {
        let program = program(&agent, "ingress")?;
        ensure!(program["in_place"] == true, "{program}");
        anyhow::Ok(())
    })
}

/// One that comes while the agent runs is attached to once.
fn comes_later() -> Result<()> {
    let (here, there) = (Netns::new("later")?, Netns::new("later")?);
    let agent = Agent::start(&here, &ATTACH)?;
    pair(&here, &there)?;
    eventually(TWO_CHECKS, "it is attached to", || {
        program(&agent, "ingress").map(|_| ())
    })?;
    // The interface is read again for an address.
    here.ip(&format!("address add 192.0.2.77/32 dev {NIC}"))?;
    eventually(TWO_CHECKS, "its new address", || {
        let status = agent.get("/v1/status")?;
        ensure!(status.to_string().contains("192.0.2.77"), "{status}");
        anyhow::Ok(())
    })?;
    let program = program(&agent, "ingress")?;
    ensure!(
        program["in_place"] == true && program["mended"] == 0,
        "{program}"
    );
    Ok(())
}
