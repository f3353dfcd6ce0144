//! Disconnecting and parking.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_common::map::{LocalKey, SessionEntry};
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::attached;
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::Test;
use dz_tests::pinned::Pinned;
use dz_tests::wait::{eventually, monotonic_ns};
use dz_tests::wire::{Direction, TunWire};

use super::stage::{Stage, changes, peer_key};
use crate::needs::NEEDS;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("rows::d1", &NEEDS, committed),
        Test::new("rows::d2", &NEEDS, announced),
        Test::new("rows::d3", &NEEDS, without_route),
        Test::new("rows::d4", &NEEDS, nothing_but_a_slot),
        Test::new("rows::p1", &NEEDS, parking_begun),
        Test::new("rows::p2", &NEEDS, parking_without_route),
        Test::new("rows::p3", &NEEDS, parked),
        Test::new("rows::p4", &NEEDS, created_anew),
        Test::new("rows::p5", &NEEDS, address_of_the_past),
    ]
}

/// Step 1 of a disconnect: one run of the control program.
fn commit(maps: &Pinned, entry: &SessionEntry) -> Result<()> {
    maps.delete_peer(&peer_key(THERE))?;
    admin_down(maps, entry)
}

/// A session in AdminDown. An update replaces the entry, which the kernel programs notice by its
/// generation.
fn admin_down(maps: &Pinned, entry: &SessionEntry) -> Result<()> {
    let mut entry = *entry;
    entry.admin_down(monotonic_ns());
    maps.set_session(&entry)
}

fn committed() -> Result<()> {
    let stage = Stage::new()?;
    commit(&stage.maps()?, &stage.entry)?;
    let before = bed::liveness(&stage.bed.wire, Direction::AToB).len();
    let mut started = stage.start()?;
    started.settled(0, 0)?;
    let told = eventually(PATIENCE, "the far end Down", || {
        let session = started.peer.session(HERE).context("no session")?;
        ensure!(session.session.state != State::Up, "{session:?}");
        anyhow::Ok(session)
    })?;
    let reason = told.changes.last().map(|change| change.reason);
    ensure!(reason == Some(DownReason::RemoteAdmin), "{told:?}");
    let said = bed::liveness(&started.bed.wire, Direction::AToB);
    let admin = said[before..]
        .iter()
        .filter(|(_, packet)| packet.state == State::AdminDown);
    ensure!(admin.count() >= 3, "{:?}", &said[before..]);
    started.gone()
}

/// That it was told already does no harm.
fn announced() -> Result<()> {
    let stage = Stage::new()?;
    commit(&stage.maps()?, &stage.entry)?;
    let started = stage.start()?;
    started.settled(0, 0)?;
    let far = |started: &super::stage::Started| started.peer.session(HERE).context("no session");
    eventually(PATIENCE, "the far end Down", || {
        (far(&started).ok()?.session.state == State::Down).then_some(())
    })?;
    // The same once more, to a far end that is Down: as if the first time had been the dead agent's.
    let home = started.agent.crash()?;
    let maps = Pinned::open(home.pin_dir())?;
    admin_down(&maps, &started.before)?;
    started.bed.here.ip(&format!(
        "route add {THERE} dev {INTERFACE} src {HERE} proto 144"
    ))?;
    let changes = changes(&started.peer)?;
    let agent = super::stage::start(home, &started.bed)?;
    let mut started = super::stage::Started { agent, ..started };
    started.settled(0, 0)?;
    ensure!(
        super::stage::changes(&started.peer)? == changes,
        "it was Down"
    );
    started.gone()
}

fn without_route() -> Result<()> {
    let stage = Stage::new()?;
    commit(&stage.maps()?, &stage.entry)?;
    stage.delete_route()?;
    stage.start()?.gone()
}

fn nothing_but_a_slot() -> Result<()> {
    let stage = Stage::new()?;
    let maps = stage.maps()?;
    commit(&maps, &stage.entry)?;
    stage.delete_route()?;
    maps.delete_session(&stage.entry.key)?;
    stage.start()?.gone()
}

/// The address went, parking began, and the address is back or is not.
fn parking_begun() -> Result<()> {
    park(|_, _| Ok(()))
}

fn parking_without_route() -> Result<()> {
    park(|stage, _| stage.delete_route())
}

fn parked() -> Result<()> {
    park(|stage, maps| {
        stage.delete_route()?;
        maps.delete_session(&stage.entry.key)
    })
}

fn park(further: impl Fn(&Stage, &Pinned) -> Result<()>) -> Result<()> {
    let address = format!("{HERE}/31 dev {INTERFACE} scope link");
    for back in [true, false] {
        let stage = Stage::new()?;
        let maps = stage.maps()?;
        admin_down(&maps, &stage.entry)?;
        further(&stage, &maps)?;
        if !back {
            // Nothing may leave with it from now on.
            stage.bed.here.ip(&format!("address delete {address}"))?;
        }
        let said = from_here(&stage.bed.wire);
        let mut started = stage.start()?;
        if !back {
            started.settled(1, 0)?;
            let shown = started.agent.json(&["sessions", "--json"])?;
            let reason = shown["parked"][0]["reason"].as_str().unwrap_or_default();
            let gone = format!("{HERE} is not an address of this host");
            ensure!(reason == gone, "{shown}");
            let now = from_here(&started.bed.wire);
            ensure!(
                now == said,
                "{} packets from an address that is gone",
                now - said
            );
            started.bed.here.ip(&format!("address add {address}"))?;
        }
        let (before, now) = (started.before, started.up()?);
        let since = |entry: &SessionEntry| entry.session.since_ns;
        ensure!(since(&now) > since(&before), "a new one: {now:?}");
    }
    Ok(())
}

/// Packets that have left with our address.
fn from_here(wire: &TunWire) -> usize {
    let ours = |packet: &[u8]| parse_udp(packet).is_some_and(|udp| *udp.src.ip() == HERE);
    let records = wire.records().into_iter();
    records
        .filter(|record| record.direction == Direction::AToB && ours(&record.packet))
        .count()
}

/// The interface was deleted and created anew while no agent was there: pins of links outlive their
/// device, sessions outlive their index.
fn created_anew() -> Result<()> {
    let stage = Stage::new()?;
    let Bed { here, there, wire } = stage.bed;
    drop(wire);
    let bed = Bed::join(here, there)?;
    let mut started = Stage { bed, ..stage }.start()?;
    let now = started.up()?;
    ensure!(
        now.key.ifindex == started.bed.here.ifindex(INTERFACE)?,
        "{now:?}"
    );
    ensure!(now.key.ifindex != started.before.key.ifindex, "{now:?}");
    attached::until(&started.bed.here, INTERFACE, 2)
}

fn address_of_the_past() -> Result<()> {
    let stage = Stage::new()?;
    let maps = stage.maps()?;
    for ifindex in [stage.entry.key.ifindex, 4_711] {
        let addr = Ipv4Addr::new(10, 1, 2, 3).octets();
        maps.set_local(&LocalKey { ifindex, addr }, 7)?;
    }
    let mut started = stage.start()?;
    let locals = maps.reader().locals()?;
    ensure!(
        locals.iter().all(|(key, _)| key.addr == HERE.octets()) && locals.len() == 1,
        "{locals:?}"
    );
    started.untouched()
}
