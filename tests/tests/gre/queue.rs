//! A full queue on the device *below* the tunnel: what was marked above it is let through first there,
//! too, and the outer header says so where the tunnel was made with `tos inherit`.

use std::time::Duration;

use anyhow::{Result, ensure};
use dz_common::session::DownReason;
use dz_tests::bed::PATIENCE;
use dz_tests::harness::{Outcome, Requirement, Test};
use dz_tests::queue::{self, Discipline, Flood};
use dz_tests::udp_peer::UdpPeer;
use dz_tests::veth;
use dz_tests::wait::{eventually, holds};

use crate::scene::{A, Hosts, NEEDS, PAIRS, PEERS, UNDER, UNDER_THERE, connect, until_up};

/// Three seconds, for emulated machines.
const DETECT_MULT: u8 = 15;
const WATCHED: Duration = Duration::from_secs(12);

pub(super) fn tests() -> Vec<Test> {
    let needs = [NEEDS[0], NEEDS[1], NEEDS[2], Requirement::Tool("tc")];
    vec![Test::new("queue::below", &needs, below)]
}

fn below() -> Result<Outcome> {
    for discipline in [Discipline::Fifo, Discipline::ByPriority] {
        let hosts = Hosts::new()?;
        known(&hosts)?;
        if let Some(skip) = queue::narrow(&hosts.here, UNDER, discipline)? {
            return Ok(skip);
        }
        let agent = hosts.agent(DETECT_MULT)?;
        let peers = hosts.peers(DETECT_MULT)?;
        connect(&agent, &PAIRS)?;
        until_up(&agent, &hosts.here, &PAIRS)?;
        let _flood = Flood::start(&hosts.here, UNDER, UNDER_THERE)?;
        if discipline == Discipline::Fifo {
            // First come, first served: the queue is what it is meant to be.
            eventually(PATIENCE, "a peer that loses us behind a queue", || {
                ensure!(lost(&peers)? > 0);
                anyhow::Ok(())
            })?;
            continue;
        }
        holds(WATCHED, "sessions that stay Up", || {
            let lost = lost(&peers)?;
            ensure!(lost == 0, "{lost}");
            anyhow::Ok(())
        })?;
        let waiting = queue::backlog(&hosts.here, UNDER)?;
        ensure!(waiting > 100, "the queue is not full any more: {waiting}");
    }
    outer_header()?;
    Ok(Outcome::Passed)
}

/// Has us know the far end's address on the underlay: ARP is no control traffic, and is asked again
/// within seconds where the far end asked first.
fn known(hosts: &Hosts) -> Result<()> {
    let far = veth::mac_text(veth::mac(&hosts.there, UNDER)?);
    let line = format!("neigh replace {UNDER_THERE} lladdr {far} dev {UNDER} nud permanent");
    hosts.here.ip(&line).map(|_| ())
}

/// How often the peers have lost us.
fn lost(peers: &[UdpPeer]) -> Result<usize> {
    let changes = peers.iter().flat_map(UdpPeer::sessions);
    let changes = changes.flat_map(|session| session.changes);
    Ok(changes
        .filter(|one| one.reason == DownReason::Timeout)
        .count())
}

/// The tunnel copies the type of service if it is told to.
fn outer_header() -> Result<()> {
    const TOS: usize = 1;
    for (tos, outer) in [("0", 0), ("inherit", 0xc0)] {
        let hosts = Hosts::new()?;
        let line = format!("link set {} type gre tos {tos}", dz_tests::bed::INTERFACE);
        hosts.here.ip(&line)?;
        let agent = hosts.agent(DETECT_MULT)?;
        let peer = hosts.peer(PEERS[0], DETECT_MULT)?;
        peer.add_session(A);
        connect(&agent, &[(A, PEERS[0])])?;
        until_up(&agent, &hosts.here, &[(A, PEERS[0])])?;
        let packets = hosts.from_here.since(0);
        let mut around = packets
            .iter()
            .filter(|packet| crate::capture::is_gre(packet));
        let strange = around.find(|packet| packet.get(TOS) != Some(&outer));
        ensure!(strange.is_none(), "tos {tos}: {strange:02x?}");
    }
    Ok(())
}
