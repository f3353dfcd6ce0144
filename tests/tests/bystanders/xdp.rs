//! Another XDP program on the device, and one at the far end: ours goes to TC.

use anyhow::{Context, Result, ensure};
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::PATIENCE;
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::paths::{done, purge};
use crate::scene::NEEDS;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("xdp::another_program", &NEEDS, another_program)]
}

fn another_program() -> Result<()> {
    let (here, there) = (Netns::new("xdp")?, Netns::new("xdp")?);
    veth::pair(
        &End::new(&here, "near0", "10.0.0.0/31"),
        &End::new(&there, "far0", "10.0.0.1/31"),
    )?;
    let _theirs = [
        Bare::attach(&here, "near0", Program::EmptyXdp)?,
        Bare::attach(&there, "far0", Program::EmptyXdp)?,
    ];
    let look = || -> Result<[String; 2]> {
        let shown = |netns: &Netns| netns.ip("-d -o link show type veth");
        Ok([shown(&here)?, shown(&there)?])
    };
    let before = look()?;
    ensure!(
        before.iter().all(|link| link.contains("prog/xdp")),
        "{before:?}"
    );
    let peer =
        there.run(|| UdpPeer::spawn(UdpPeerConfig::new("10.0.0.1".parse()?)).context("peer"))?;
    peer.add_session("10.0.0.0".parse()?);
    let arguments = ["--interface", "near0", "--max-sessions", "2048"];
    let same = |when: &str| -> Result<()> {
        let now = look()?;
        ensure!(now == before, "after {when}: {before:?}, now {now:?}");
        Ok(())
    };

    let agent = Agent::start_in(Home::nested()?, &here, &arguments)?;
    same("start")?;
    let status = agent.get("/v1/status")?;
    ensure!(status["interfaces"][0]["attach"] == "tc", "{status}");
    agent.cli(&["connect", "10.0.0.1", "--local", "10.0.0.0"])?;
    eventually(PATIENCE, "Up", || {
        let shown = agent.get("/v1/sessions")?;
        ensure!(shown["sessions"][0]["state"] == "up", "{shown}");
        anyhow::Ok(())
    })?;
    same("Up")?;
    let home = agent.crash()?;
    let agent = Agent::start_in(home, &here, &arguments)?;
    same("kill -9 and start")?;
    let home = agent.crash()?;
    done(&purge(&here, &home, &[])?)?;
    same("purge")?;
    let agent = Agent::start_in(home, &here, &arguments)?;
    let home = agent.end(Signal::SIGTERM)?;
    same("SIGTERM")?;
    ensure!(!home.pin_dir().exists());
    attached::until(&here, "near0", 1)
}
