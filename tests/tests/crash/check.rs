//! Whether kernel and agent are what the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::SessionEntry;
use dz_common::packet::State;
use dz_common::session::Mode;
use dz_tests::agent::Agent;
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::mark::{Mark, Marks};
use dz_tests::wait::eventually;

use crate::model::{Model, Wanted};
use crate::world::{OurRoute, World};

/// What must hold at any moment, also while no agent runs: intent is what was answered, and what an
/// answered disconnect has ended does not come back.
pub(crate) fn always(world: &World, model: &mut Model, reader: &MapReader) -> Result<()> {
    model.check(&reader.peers()?)?;
    let sessions = reader.sessions()?;
    for entry in &sessions {
        let peer = Ipv4Addr::from(entry.key.peer);
        ensure!(
            !model.gone.contains(&peer),
            "peer {peer}: its disconnect was answered: {entry:?}"
        );
    }
    for peer in world.our_routes()?.keys() {
        ensure!(
            !model.gone.contains(peer),
            "peer {peer}: its disconnect was answered, and it has a route"
        );
    }
    Ok(())
}

/// An agent that was told to take everything back has, and its maps went last.
pub(crate) fn nothing_left(world: &World, model: &mut Model) -> Result<()> {
    ensure!(model.may_be_empty(), "the maps are gone: {model:?}");
    model.check(&[])?;
    // Those of peers: others may have come under our number since.
    let routes = world.our_routes()?;
    let left = World::addresses().find(|peer| routes.contains_key(peer));
    ensure!(
        left.is_none(),
        "the maps are gone, the route to {left:?} is not"
    );
    Ok(())
}

/// Waits until everything is as it should be, and returns the sessions that are Up.
pub(crate) fn settled(world: &World, model: &mut Model, agent: &Agent) -> Result<Marks> {
    let reader = MapReader::from_pins(agent.home().pin_dir())?;
    eventually(PATIENCE, "what should be", || {
        // What must hold at any moment is not waited for.
        if let Err(error) = always(world, model, &reader) {
            return Ok(Err(error));
        }
        look(world, model, agent, &reader).map(Ok)
    })?
}

/// Sessions that nobody touched have not noticed anything.
pub(crate) fn not_flapped(
    before: &Marks,
    after: &Marks,
    touched: &BTreeSet<Ipv4Addr>,
) -> Result<()> {
    for (peer, mark) in before.iter().filter(|(peer, _)| !touched.contains(*peer)) {
        let now = after.get(peer);
        ensure!(
            now == Some(mark),
            "peer {peer}, which nobody touched: {mark:?}, now {now:?}"
        );
    }
    Ok(())
}

fn look(world: &World, model: &Model, agent: &Agent, reader: &MapReader) -> Result<Marks> {
    let ifindex = if world.has_interface() {
        world.ifindex()?
    } else {
        0
    };
    let mut sessions = BTreeMap::new();
    for entry in reader.sessions()? {
        ensure!(
            entry.key.ifindex == ifindex,
            "of an interface that is gone: {entry:?}"
        );
        let twice = sessions.insert(Ipv4Addr::from(entry.key.peer), entry);
        ensure!(twice.is_none(), "two sessions with one peer: {twice:?}");
    }
    let open = |wanted: &Wanted| world.carries(wanted.local);
    let (kept, parked): (BTreeMap<_, _>, BTreeMap<_, _>) =
        model.peers.iter().partition(|(_, wanted)| open(wanted));
    ensure!(
        sessions.keys().eq(kept.keys().copied()),
        "peers {:?}, sessions {:?}",
        kept.keys(),
        sessions.keys()
    );
    // Only now: while sessions come and go, a look may meet one twice, or a slot's last owner.
    let slots: BTreeSet<_> = sessions.values().map(|entry| entry.slot).collect();
    ensure!(
        slots.len() == sessions.len(),
        "a deadline slot of two sessions"
    );
    let mut marks = Marks::new();
    for (peer, entry) in &sessions {
        if let Some(mark) = session(world, *peer, model.peers[peer], entry)? {
            marks.insert(*peer, mark);
        }
    }
    routes(world, model, &sessions)?;
    locals(world, ifindex, reader)?;
    shown(agent, &sessions, &parked)?;
    let (wanted, found) = world.foreign_routes()?;
    ensure!(
        wanted == found,
        "other people's routes: {wanted}, now {found}"
    );
    Ok(marks)
}

/// A session is Up at both ends where somebody answers, and Down where nobody does.
fn session(
    world: &World,
    peer: Ipv4Addr,
    wanted: Wanted,
    entry: &SessionEntry,
) -> Result<Option<Mark>> {
    let local = Ipv4Addr::from(entry.key.local);
    let mode = if wanted.passive {
        Mode::Passive
    } else {
        Mode::Active
    };
    ensure!(
        local == wanted.local && entry.session.timers.mode == mode,
        "{wanted:?}: {entry:?}"
    );
    let state = entry.session.state;
    let Some(far) = world
        .fars
        .get(&peer)
        .filter(|_| !world.refused.contains(&(peer, local)))
    else {
        ensure!(
            state == State::Down,
            "peer {peer}, which does not answer: {entry:?}"
        );
        return Ok(None);
    };
    let far = far.session(local).context("no session at the far end")?;
    ensure!(
        state == State::Up && far.session.state == State::Up,
        "peer {peer}: {entry:?}; there {:?}",
        far.session
    );
    Ok(Some(Mark::of(entry, &far)))
}

/// Our routes are those that mode and state want.
fn routes(world: &World, model: &Model, sessions: &BTreeMap<Ipv4Addr, SessionEntry>) -> Result<()> {
    let mut found = world.our_routes()?;
    for (peer, entry) in sessions {
        let wanted = model.peers[peer];
        let route = OurRoute {
            src: Some(wanted.local),
            via: wanted.via,
            dev: INTERFACE.to_owned(),
            metric: 0,
        };
        let now = found.remove(peer);
        let session = &entry.session;
        if session.state == State::Up || wanted.passive {
            ensure!(
                now.as_ref() == Some(&route),
                "peer {peer}: {route:?} wanted, {now:?} there"
            );
        } else if session.peer_mode == Mode::Passive {
            ensure!(
                now.is_none() || now.as_ref() == Some(&route),
                "peer {peer}: {now:?} left there"
            );
        } else {
            ensure!(now.is_none(), "peer {peer} is Down and has {now:?}");
        }
    }
    ensure!(found.is_empty(), "routes that nobody wants: {found:?}");
    Ok(())
}

/// Packets are taken for the addresses that the interface holds.
fn locals(world: &World, ifindex: u32, reader: &MapReader) -> Result<()> {
    let found: BTreeSet<_> = reader
        .locals()?
        .into_iter()
        .map(|(key, _)| (key.ifindex, Ipv4Addr::from(key.addr)))
        .filter(|(_, address)| address.octets()[0] == 10)
        .collect();
    let held: BTreeSet<_> = if world.has_interface() {
        world.held().iter().map(|local| (ifindex, *local)).collect()
    } else {
        BTreeSet::new()
    };
    ensure!(found == held, "addresses: {held:?}, noted {found:?}");
    Ok(())
}

/// What `sessions` shows: every peer once, open or parked with a reason.
fn shown(
    agent: &Agent,
    sessions: &BTreeMap<Ipv4Addr, SessionEntry>,
    parked: &BTreeMap<&Ipv4Addr, &Wanted>,
) -> Result<()> {
    let shown = agent.get("/v1/sessions")?;
    let addresses = |field: &str| -> Result<BTreeSet<Ipv4Addr>> {
        let list = shown[field].as_array().context("no list")?;
        let parse =
            |one: &serde_json::Value| Ok(one["peer"].as_str().context("no peer")?.parse()?);
        let addresses: Result<BTreeSet<_>> = list.iter().map(parse).collect();
        let addresses = addresses?;
        ensure!(
            addresses.len() == list.len(),
            "a peer shown twice in {field}"
        );
        Ok(addresses)
    };
    ensure!(
        addresses("sessions")?.iter().eq(sessions.keys()),
        "not shown as they are: {sessions:?}"
    );
    ensure!(
        addresses("parked")?.iter().eq(parked.keys().copied()),
        "parked: {parked:?}, shown {}",
        shown["parked"]
    );
    let reasons = shown["parked"].as_array().into_iter().flatten();
    for one in reasons {
        ensure!(
            one["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty()),
            "{one}"
        );
    }
    Ok(())
}
