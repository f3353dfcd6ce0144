//! AdminDown reaches the peer: after a takeover on Ethernet, where the first one is lost, and where it can
//! reach nobody the reply says so.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dz_common::packet::{Packet, State};
use dz_common::session::{DownReason, Timers};
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::{Requirement, Test};
use dz_tests::pinned::Pinned;
use dz_tests::route_log::RouteLog;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::wait::{eventually, holds, monotonic_ns};
use dz_tests::wire::Direction;
use nix::sys::signal::Signal;

use crate::ethernet::{Clock, MULTIPLIER, Segment};
use crate::scene::{NEEDS, Scene};

const ON_ETHERNET: [Requirement; 2] = [Requirement::Root, Requirement::Tool("ethtool")];
/// A second for the next hop, on a machine that may be busy; far below the detection time.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// Time in which everything is lost, after the first farewell; the second one comes after some 45 ms.
const BURST: Duration = Duration::from_millis(15);
/// More notifications than a socket's buffer holds.
const CHANGES: u32 = 60_000;
/// Another Ethernet address of the peer's.
const MOVED_TO: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// So many packets in a row are more than our answers to a peer that speaks every three of our intervals.
const CONCLUSIVE: usize = 3;
/// Longer than all farewells of a session take.
const AFTERWARDS: Duration = Duration::from_secs(1);

pub(super) fn tests() -> Vec<Test> {
    let ethernet =
        |name: &'static str, body: fn() -> Result<()>| Test::new(name, &ON_ETHERNET, body);
    vec![
        ethernet("farewell::killed", || disconnect(Agent::crash, Clock::Ours)),
        ethernet("farewell::killed_peers_clock", || {
            disconnect(Agent::crash, Clock::Peers)
        }),
        ethernet("farewell::sigusr2", || disconnect(leave, Clock::Ours)),
        ethernet("farewell::sigusr2_peers_clock", || {
            disconnect(leave, Clock::Peers)
        }),
        ethernet("farewell::neighbours_forgotten", neighbours_forgotten),
        ethernet("farewell::sigterm_after_takeover", withdraw),
        ethernet("farewell::by_gateway", by_gateway),
        ethernet("farewell::unresolvable", unresolvable),
        ethernet("farewell::sigterm_unresolvable", withdraw_unresolvable),
        ethernet("farewell::address_gone_meanwhile", || {
            gone_meanwhile(&format!("address delete {HERE}/31 dev {INTERFACE}"))
        }),
        ethernet("farewell::link_down_meanwhile", || {
            gone_meanwhile(&format!("link set {INTERFACE} down"))
        }),
        ethernet("farewell::notifications_lost", notifications_lost),
        Test::new("farewell::first_one_lost", &NEEDS, first_one_lost),
    ]
}

fn leave(agent: Agent) -> Result<Home> {
    agent.end(Signal::SIGUSR2)
}

/// Another process, which has heard nothing of next hops, disconnects at once.
fn disconnect(stop: impl FnOnce(Agent) -> Result<Home>, clock: Clock) -> Result<()> {
    let segment = Segment::new("heir", clock)?;
    let home = stop(segment.up()?)?;
    let routes = RouteLog::start(&segment.here)?;
    let agent = segment.start(home)?;
    let since_ns = monotonic_ns();
    without_a_word(&said_bye(&agent)?)?;
    all_gone(&segment, &agent)?;
    segment.told(&routes, since_ns)
}

/// Nor does the kernel know the next hop: it has to be asked for, although we only answer.
fn neighbours_forgotten() -> Result<()> {
    let segment = Segment::new("forgot", Clock::Peers)?;
    let home = segment.up()?.crash()?;
    segment.forget_neighbours()?;
    let routes = RouteLog::start(&segment.here)?;
    let agent = segment.start(home)?;
    segment.forget_neighbours()?;
    let since_ns = monotonic_ns();
    without_a_word(&said_bye(&agent)?)?;
    all_gone(&segment, &agent)?;
    segment.told(&routes, since_ns)
}

fn withdraw() -> Result<()> {
    for clock in [Clock::Ours, Clock::Peers] {
        let segment = Segment::new("heir-term", clock)?;
        let home = segment.up()?.crash()?;
        let routes = RouteLog::start(&segment.here)?;
        let mut agent = segment.start(home)?;
        let since_ns = monotonic_ns();
        end(&mut agent)?;
        segment.told(&routes, since_ns)?;
        ensure!(!agent.process().log().contains("could not be told"));
    }
    Ok(())
}

/// The peer is behind a gateway, and a crash between the steps of its disconnect has taken the peer's
/// entry, which names it: the route does, too.
fn by_gateway() -> Result<()> {
    let segment = Segment::new("gateway", Clock::Ours)?;
    let far = Ipv4Addr::new(10, 7, 0, 1);
    segment.there.ip(&format!("address add {far}/32 dev lo"))?;
    // Who asks the segment for it gets no answer.
    let strictly = format!("sysctl -qw net.ipv4.conf.{INTERFACE}.arp_ignore=1");
    segment.there.command(&strictly)?;
    let agent = segment.start(Home::new()?)?;
    let (peer, local, via) = (far.to_string(), HERE.to_string(), THERE.to_string());
    agent.cli(&["connect", &peer, "--local", &local, "--via", &via])?;
    // On a busy machine the crash and the start after it take longer than the usual three seconds.
    let config = UdpPeerConfig {
        timers: Timers {
            detect_mult: MULTIPLIER,
            ..Timers::DEFAULT
        },
        ..UdpPeerConfig::new(far)
    };
    let speaker = segment.there.run(|| UdpPeer::spawn(config))?;
    speaker.add_session(HERE);
    bed::peer_until(&speaker, State::Up)?;
    bed::until_route(&segment.here, far, true)?;
    let mut entry = bed::until(agent.home(), State::Up)?;
    let home = agent.crash()?;
    let maps = Pinned::open(home.pin_dir())?;
    let peers = maps.reader().peers()?;
    maps.delete_peer(&peers.first().context("no peer")?.0)?;
    entry.admin_down(monotonic_ns());
    maps.set_session(&entry)?;
    let mut agent = segment.start(home)?;
    bed::peer_until(&speaker, State::Down)?;
    let theirs = speaker.session(HERE).context("no session")?;
    let reason = theirs.changes.last().map(|change| change.reason);
    ensure!(reason == Some(DownReason::RemoteAdmin), "{theirs:?}");
    bed::until_route(&segment.here, far, false)?;
    ensure!(!agent.process().log().contains("could not be told"));
    Ok(())
}

/// Nobody knows where the next hop is.
fn unresolvable() -> Result<()> {
    let segment = Segment::new("nowhere", Clock::Peers)?;
    let home = segment.up()?.crash()?;
    segment.mute_arp()?;
    let mut agent = segment.start(home)?;
    let (since, since_ns) = (Instant::now(), monotonic_ns());
    let said = said_bye(&agent)?;
    let took = since.elapsed();
    let warning = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.status.success(), "{warning}");
    let expected = format!("warning: peer {THERE}: could not be told: next hop {THERE}");
    ensure!(
        warning.contains(&expected) && warning.contains("learns by timeout"),
        "{warning}"
    );
    ensure!(took < GIVEN_UP, "{took:?}");
    println!("given up after {took:?}");
    all_gone(&segment, &agent)?;
    ensure!(agent.process().log().contains("could not be told"));
    ensure!(segment.wire.farewells(since_ns).is_empty());
    Ok(())
}

fn withdraw_unresolvable() -> Result<()> {
    let segment = Segment::new("nowhere", Clock::Peers)?;
    let home = segment.up()?.crash()?;
    segment.mute_arp()?;
    let mut agent = segment.start(home)?;
    let since = Instant::now();
    end(&mut agent)?;
    ensure!(since.elapsed() < GIVEN_UP, "{:?}", since.elapsed());
    let log = agent.process().log();
    ensure!(log.contains("could not be told"), "{log}");
    ensure!(bed::route_to(&segment.here, THERE)?.is_empty());
    Ok(())
}

/// A disconnect waits for its next hop, and what it would be said from, or over, goes: nothing may leave any
/// more, whatever is resolved later.
fn gone_meanwhile(goes: &str) -> Result<()> {
    let segment = Segment::new("leaving", Clock::Peers)?;
    let home = segment.up()?.crash()?;
    segment.mute_arp()?;
    let agent = segment.start(home)?;
    let said = std::thread::scope(|scope| -> Result<Output> {
        let asked = scope.spawn(|| said_bye(&agent));
        bed::until(agent.home(), State::AdminDown)?;
        segment.here.ip(goes)?;
        let before = segment.wire.count();
        segment.answer_arp(true)?;
        let said = asked.join().ok().context("the command's thread")??;
        holds(AFTERWARDS, "silence", || {
            let now = segment.wire.count();
            ensure!(now == before, "{} packets", now - before);
            anyhow::Ok(())
        })?;
        Ok(said)
    })?;
    let warning = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "{warning}");
    let reason = format!("does not hold {HERE} any more; it learns by timeout");
    ensure!(warning.contains(&reason), "{warning}");
    all_gone(&segment, &agent)
}

/// The peer's Ethernet address changes, and the notification of that is lost: the table is read again.
fn notifications_lost() -> Result<()> {
    let segment = Segment::new("deaf", Clock::Ours)?;
    let mut agent = segment.up()?;
    let mut batch = tempfile::NamedTempFile::new()?;
    for number in 0..CHANGES {
        let dst = Ipv4Addr::from(0xac10_0000 + number);
        writeln!(batch, "route add {dst} dev lo")?;
    }
    agent.process().freeze()?;
    let path = batch.path().display().to_string();
    segment.here.ip(&format!("-batch {path}"))?;
    segment.move_peer(MOVED_TO)?;
    agent.process().signal(Signal::SIGCONT)?;
    eventually(PATIENCE, "our clock's packets at the new address", || {
        let last = segment.wire.last_destinations(CONCLUSIVE);
        let moved = last.iter().all(|to| *to == MOVED_TO);
        (moved && last.len() == CONCLUSIVE).then_some(())
    })?;
    let log = agent.process().log();
    ensure!(log.contains("notifications lost"), "none was lost: {log}");
    let routes = RouteLog::start(&segment.here)?;
    let since_ns = monotonic_ns();
    without_a_word(&said_bye(&agent)?)?;
    segment.told(&routes, since_ns)
}

/// What loses one packet, or several in a row, does not lose all three.
fn first_one_lost() -> Result<()> {
    let scene = Scene::new("lost", 1)?;
    let agent = scene.agent(&[])?;
    let (address, peer) = &scene.peers[0];
    let mut burst = None;
    scene.bed.wire.set_loss(move |direction, packet| {
        let farewell = direction == Direction::AToB && says_admin_down(packet);
        farewell && burst.get_or_insert_with(Instant::now).elapsed() < BURST
    });
    let before_ns = monotonic_ns();
    agent.cli(&["disconnect", &address.to_string()])?;
    bed::peer_until(peer, State::Down)?;
    let theirs = peer.session(HERE).context("no session")?;
    let change = theirs.changes.last().context("no change")?;
    ensure!(change.reason == DownReason::RemoteAdmin, "{theirs:?}");
    let said = bed::liveness(&scene.bed.wire, Direction::AToB).into_iter();
    let said: Vec<_> = said
        .filter(|(record, packet)| record.at_ns >= before_ns && packet.state == State::AdminDown)
        .map(|(record, _)| record.forwarded)
        .collect();
    ensure!(
        said.first() == Some(&false) && said.contains(&true),
        "{said:?}"
    );
    Ok(())
}

fn says_admin_down(packet: &[u8]) -> bool {
    let packet = parse_udp(packet).and_then(|udp| Packet::decode(&udp.payload).ok());
    packet.is_some_and(|packet| packet.state == State::AdminDown)
}

/// Disconnects the peer, as a user does.
fn said_bye(agent: &Agent) -> Result<Output> {
    agent.home().command(&["disconnect", &THERE.to_string()])
}

fn without_a_word(said: &Output) -> Result<()> {
    let words = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success() && words.is_empty(), "{words}");
    Ok(())
}

/// No session and no route, now that the reply is there.
fn all_gone(segment: &Segment, agent: &Agent) -> Result<()> {
    let route = bed::route_to(&segment.here, THERE)?;
    ensure!(route.is_empty(), "after the reply: {route}");
    let entries = bed::entries(agent.home())?;
    ensure!(entries.is_empty(), "{entries:?}");
    Ok(())
}

/// SIGTERM, until it has ended.
fn end(agent: &mut Agent) -> Result<()> {
    agent.process().signal(Signal::SIGTERM)?;
    let status = agent.process().wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}
