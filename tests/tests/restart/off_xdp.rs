//! Version 0.1.0 attached native XDP to a veth by itself. Its next start, with other maps and another
//! choice, has TC there, and nobody notices.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bare::{Bare, Program};
use dz_tests::harness::Requirement::{Root, Tool};
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::{eventually, holds};

use crate::crowd::{DETECT_MULT, PATIENCE, interval_ms};
use crate::layout_1::{self, Served};

const DEVICE: &str = "near0";
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 0);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 1);
/// Longer than both sides' detection time.
const WATCHED: Duration = Duration::from_secs(6);

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new(
        "off_xdp::from_layout_1",
        &[Root, Tool("ethtool")],
        from_layout_1,
    )]
}

fn from_layout_1() -> Result<()> {
    let (here, there) = (Netns::new("earlier")?, Netns::new("earlier")?);
    veth::pair(
        &End::new(&here, DEVICE, "10.6.0.0/31"),
        &End::new(&there, "far0", "10.6.0.1/31"),
    )?;
    // Without it no answer in XDP would arrive, and there would be no session to keep.
    let far = Bare::attach(&there, "far0", Program::EmptyXdp)?;
    let home = Home::new()?;
    let served = Served {
        interface: DEVICE,
        local: NEAR,
        peers: vec![FAR],
    };
    layout_1::leave_xdp(&home, &here, &served)?;
    let interval_us = interval_ms() * 1_000;
    let config = UdpPeerConfig {
        timers: Timers {
            desired_min_tx_us: interval_us,
            required_min_rx_us: interval_us,
            detect_mult: DETECT_MULT,
            ..Timers::DEFAULT
        },
        ..UdpPeerConfig::new(FAR)
    };
    let peer = there.run(|| UdpPeer::spawn(config)).context("UDP peer")?;
    peer.add_session(NEAR);
    let theirs = || peer.session(NEAR).context("no session");
    eventually(PATIENCE, "Up at both ends", || {
        let ours = layout_1::seen(&home)?;
        let up = theirs()?.session.state == State::Up;
        ensure!(up && ours.values().all(|ours| ours.up), "{:?}", theirs()?);
        anyhow::Ok(())
    })?;
    let before = theirs()?.changes.len();

    let agent = Agent::start_in(home, &here, &["--interface", DEVICE])?;
    // Nor is the far end's program needed any more.
    drop(far);
    let status = agent.get("/v1/status")?;
    ensure!(status["interfaces"][0]["attach"] == "tc", "{status}");
    let link = here.ip(&format!("-d link show {DEVICE}"))?;
    ensure!(!link.contains("xdp"), "{link}");
    ensure!(attached::programs(&here, DEVICE)? == 2);
    let received = theirs()?.received;
    holds(WATCHED, "both Up", || {
        let status = agent.get("/v1/status")?;
        ensure!(status["sessions"]["up"] == 1, "{status}");
        ensure!(theirs()?.changes.len() == before, "{:?}", theirs()?);
        anyhow::Ok(())
    })?;
    ensure!(theirs()?.received > received, "it hears nothing");
    Ok(())
}
