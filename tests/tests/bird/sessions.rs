//! What an agent says of its sessions, and that those which nothing happened to are as they were.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::SessionEntry;
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::PATIENCE;
use dz_tests::wait::eventually;

use crate::scene::Host;

/// A session that nothing may happen to: its state, since when, and how it got there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steady {
    peer: Ipv4Addr,
    state: State,
    since_ns: u64,
    transitions: u32,
    ups: u32,
    /// Of the entry: another one would be another session.
    generation: u32,
}

/// The sessions in an agent's maps, by number of the far host's addresses; whatever the agent does.
pub(crate) fn entries(home: &Home, far: &Host) -> Result<Vec<(usize, SessionEntry)>> {
    let entries = MapReader::from_pins(home.pin_dir())?.sessions()?;
    let mut found = Vec::new();
    for entry in entries {
        let peer = Ipv4Addr::from(entry.key.peer);
        let number = far.addresses.iter().position(|address| *address == peer);
        found.push((
            number.with_context(|| format!("a session with {peer}"))?,
            entry,
        ));
    }
    found.sort_by_key(|(number, _)| *number);
    Ok(found)
}

/// Waits until there are sessions with exactly these addresses of the far host, all in this state,
/// each from our address of the same number.
pub(crate) fn until(
    agent: &Agent,
    (host, far): (&Host, &Host),
    numbers: &[usize],
    state: State,
) -> Result<()> {
    let what = format!("{} with {numbers:?}", state.name());
    eventually(PATIENCE, &what, || {
        let found = entries(agent.home(), far)?;
        let seen: Vec<_> = found.iter().map(|(number, _)| *number).collect();
        ensure!(seen == numbers, "sessions with {seen:?}");
        for (number, entry) in &found {
            let local = Ipv4Addr::from(entry.key.local);
            ensure!(local == host.addresses[*number], "{number} from {local}");
            ensure!(
                entry.session.state == state,
                "{number}: {:?}",
                entry.session
            );
        }
        anyhow::Ok(())
    })
}

/// Sessions with these addresses, as they are not to change.
pub(crate) fn steady(home: &Home, far: &Host, numbers: &[usize]) -> Result<Vec<Steady>> {
    let entries = entries(home, far)?.into_iter();
    let steady: Vec<_> = entries
        .filter(|(number, _)| numbers.contains(number))
        .map(|(_, entry)| Steady {
            peer: entry.key.peer.into(),
            state: entry.session.state,
            since_ns: entry.session.since_ns,
            transitions: entry.session.transitions,
            ups: entry.session.ups,
            generation: entry.generation,
        })
        .collect();
    ensure!(steady.len() == numbers.len(), "{steady:?} of {numbers:?}");
    Ok(steady)
}
