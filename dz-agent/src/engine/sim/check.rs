//! What must hold: on every node after every step, and everywhere once everything is well again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dz_common::map::{PeerKey, SessionEntry, SessionKey};
use dz_common::packet::State;
use dz_common::session::DownReason;

use super::agent::Life;
use super::client::Client;
use super::machine::{Machine, Place, TUNNEL, address_of, node_of};
use crate::engine::state::keys::peer_key;
use crate::net::routes::{DEFAULT_PROTOCOL, Route};

const SECOND: u64 = 1_000_000_000;
/// How long something may be other than it should be while its agent is well: what happens is read at once, lost
/// notifications are heard of at once, and lost events are missed at the next heartbeat.
const MENDED_NS: u64 = 2 * SECOND;
/// How long packets may leave with an address after it has gone, while the agent is well.
const SPOKEN_NS: u64 = SECOND / 5;
/// Most packets from a node to another within a second. At an interval of one second each end answers
/// what it gets and transmits what it has to say: its clock, a burst at a change of state, a farewell.
const PACKETS: usize = 14;

/// What is remembered of a node between steps.
#[derive(Default)]
pub(super) struct Watch {
    /// Since when something has been other than it should be, ns.
    wrong: BTreeMap<(Ipv4Addr, &'static str), u64>,
    /// Since when its address has been nowhere, ns.
    away_ns: Option<u64>,
    /// Peers whose disconnect has been answered, and who have not been connected since.
    pub(super) gone: BTreeSet<usize>,
    /// When packets have left, by destination.
    sent: BTreeMap<usize, Vec<u64>>,
}

/// What is known of a node's agent when it is looked at.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    /// It runs, is not frozen, and has not been refused anything for longer than anything is put off.
    pub(super) well: bool,
}

fn routes(machine: &Machine) -> Vec<Route> {
    let routes = machine.net.borrow().routes(DEFAULT_PROTOCOL);
    let tunnel = machine.tunnel();
    let ours = routes.into_iter();
    ours.filter(|route| Some(route.ifindex) == tunnel).collect()
}

fn sessions(machine: &Machine) -> Vec<SessionEntry> {
    let kernel = machine.kernel.borrow();
    let maps = kernel.maps();
    maps.map(|maps| maps.sessions().iter().map(|(_, entry)| *entry).collect())
        .unwrap_or_default()
}

pub(super) fn peers(machine: &Machine) -> BTreeSet<PeerKey> {
    let kernel = machine.kernel.borrow();
    let maps = kernel.maps();
    let peers = maps.map(|maps| maps.peers().map(|(key, _)| *key).collect());
    peers.unwrap_or_default()
}

impl Watch {
    /// Notes that a packet has left. `away`: its address is nowhere at present.
    pub(super) fn sent(&mut self, to: usize, away: bool, now_ns: u64) -> Result<(), String> {
        let is_gone = |away_ns| away && away_ns + SPOKEN_NS < now_ns;
        if self.away_ns.is_some_and(is_gone) {
            return Err(format!(
                "a packet to node {to} from an address that is gone"
            ));
        }
        let sent = self.sent.entry(to).or_default();
        sent.retain(|at_ns| at_ns + SECOND > now_ns);
        sent.push(now_ns);
        if sent.len() > PACKETS {
            return Err(format!(
                "{} packets to node {to} within a second",
                sent.len()
            ));
        }
        Ok(())
    }

    /// Looks at a node after a step.
    pub(super) fn look(
        &mut self,
        machine: &Machine,
        condition: Condition,
        now_ns: u64,
    ) -> Result<(), String> {
        let kernel = machine.kernel.borrow();
        let maps = kernel.maps();
        let has_peer = |peer: Ipv4Addr| {
            let key = peer_key(TUNNEL, peer);
            maps.is_some_and(|maps| maps.peer(&key).is_some())
        };
        let tunnel = machine.tunnel();
        let session = |dst: Ipv4Addr| {
            let key = SessionKey {
                ifindex: tunnel?,
                local: [0; 4],
                peer: dst.octets(),
            };
            let sessions = maps?.sessions();
            Some(sessions.at(sessions.find(&key)?))
        };
        // Peers → sessions → routes. A peer and its session go together (D1), so that a session without a peer
        // is AdminDown; a route goes before its session (D3, D4).
        for (_, entry) in maps.iter().flat_map(|maps| maps.sessions().iter()) {
            let peer = Ipv4Addr::from(entry.key.peer);
            let state = entry.session.state;
            if state != State::AdminDown && !has_peer(peer) {
                return Err(format!("a session with {peer} in {state:?} and no peer"));
            }
        }
        let routes = routes(machine);
        for route in &routes {
            let session = session(route.dst);
            if session.is_none() && maps.is_some() {
                return Err(format!("a route to {} without a session", route.dst));
            }
        }
        let has_route = |dst: &Ipv4Addr| routes.iter().any(|route| route.dst == *dst);
        self.wrong_for_long(machine, condition, now_ns)?;
        if kernel.overwritten() > 0 {
            return Err("memory of a session was given away while a program held it".to_owned());
        }
        for &other in &self.gone {
            let peer = address_of(other);
            if has_peer(peer) {
                return Err(format!(
                    "the disconnect of {peer} is undone: there is a peer"
                ));
            }
            if session(peer).is_some() {
                return Err(format!(
                    "the disconnect of {peer} is undone: there is a session"
                ));
            }
            if has_route(&peer) {
                return Err(format!(
                    "the disconnect of {peer} is undone: there is a route"
                ));
            }
        }
        Ok(())
    }

    /// Looks whether what is other than it should be is mended in time.
    fn wrong_for_long(
        &mut self,
        machine: &Machine,
        condition: Condition,
        now_ns: u64,
    ) -> Result<(), String> {
        if !condition.well {
            self.wrong.clear();
            self.away_ns = None;
            return Ok(());
        }
        let is_away = machine.place == Place::Nowhere;
        self.away_ns = self.away_ns.or(Some(now_ns)).filter(|_| is_away);
        let wrong = wrong(machine);
        self.wrong.retain(|what, _| wrong.contains(what));
        for what in wrong {
            let since_ns = *self.wrong.entry(what).or_insert(now_ns);
            if now_ns - since_ns > MENDED_NS {
                let ((peer, what), ms) = (what, (now_ns - since_ns) / 1_000_000);
                return Err(format!("with {peer} for {ms} ms {what}"));
            }
        }
        Ok(())
    }
}

/// Returns what is other than it should be at present, by peer.
fn wrong(machine: &Machine) -> BTreeSet<(Ipv4Addr, &'static str)> {
    let mut wrong = BTreeSet::new();
    let (routes, sessions) = (routes(machine), sessions(machine));
    let peer_of = |entry: &SessionEntry| Ipv4Addr::from(entry.key.peer);
    let is_home = machine.can_speak();
    for entry in &sessions {
        let (peer, state) = (peer_of(entry), entry.session.state);
        let has_route = routes.iter().any(|route| route.dst == peer);
        if has_route && state != State::Up {
            wrong.insert((peer, "a route without Up"));
        }
        if !has_route && state == State::Up && is_home && !machine.has_foreign(peer) {
            wrong.insert((peer, "Up without a route"));
        }
        if state == State::AdminDown {
            wrong.insert((peer, "a session that does not end"));
        }
        if !is_home {
            wrong.insert((peer, "a session that cannot speak"));
        }
    }
    for key in peers(machine).into_iter().filter(|_| is_home) {
        let peer = Ipv4Addr::from(key.peer);
        if !sessions.iter().any(|entry| peer_of(entry) == peer) {
            wrong.insert((peer, "a peer without a session"));
        }
    }
    wrong
}

/// Looks at a machine whose agent has ended, perhaps. `calm`: it had not been refused anything.
pub(super) fn end(life: Life, machine: &Machine, calm: bool) -> Result<(), String> {
    match life {
        Life::Withdrawn => routes(machine).first().map_or(Ok(()), |route| {
            let dst = route.dst;
            Err(format!("everything withdrawn but a route to {dst}"))
        }),
        Life::Left if calm => Err("not everything withdrawn, and nothing was refused".to_owned()),
        _ => Ok(()),
    }
}

/// Looks for sessions of a gentle story that went down because nothing was heard.
pub(super) fn timeouts(machine: &Machine, since_ns: u64) -> Result<(), String> {
    for entry in sessions(machine) {
        let session = &entry.session;
        let down = session.last_down_reason == DownReason::Timeout;
        if down && session.state == State::Down && session.since_ns >= since_ns {
            let peer = Ipv4Addr::from(entry.key.peer);
            return Err(format!(
                "the session with {peer} timed out, and nothing was lost"
            ));
        }
    }
    Ok(())
}

/// What has sessions on a node.
pub(super) enum Ends {
    Ours(Machine),
    Deployed(Client),
}

impl Ends {
    pub(super) fn of(machine: Machine, client: Option<Client>) -> Self {
        client.map_or(Self::Ours(machine), Self::Deployed)
    }
}

/// Looks whether all have agreed: where two nodes want each other, both are Up and have a route; where
/// one wants the other, it is not Up, and has none.
pub(super) fn agreement(ends: &[Ends], wants: &[BTreeSet<usize>]) -> Result<(), (usize, String)> {
    for (node, end) in ends.iter().enumerate() {
        let machine = match end {
            Ends::Ours(machine) => machine,
            Ends::Deployed(client) => {
                // Two deployed clients may cling to each other's earlier discriminators for a minute.
                let ours = |other: usize| matches!(ends[other], Ends::Ours(_));
                let sessions = client.sessions.iter().filter(|(other, _)| ours(**other));
                for (other, deployed) in sessions {
                    let (up, mutual) = (
                        deployed.session.state == State::Up,
                        wants[*other].contains(&node),
                    );
                    if up != mutual {
                        let what = format!(
                            "of a deployed client with node {other}: {:?}",
                            deployed.session
                        );
                        return Err((node, what));
                    }
                }
                continue;
            }
        };
        let routes = routes(machine);
        let sessions = sessions(machine);
        for &other in &wants[node] {
            let peer = address_of(other);
            let mutual = wants[other].contains(&node);
            let session = sessions
                .iter()
                .find(|entry| Ipv4Addr::from(entry.key.peer) == peer);
            let state = session.map(|entry| entry.session.state);
            let route = routes.iter().any(|route| route.dst == peer);
            if mutual != (state == Some(State::Up)) || mutual != route {
                let what = format!(
                    "with {peer}, {}: {state:?}, route: {route}",
                    if mutual {
                        "who wants it, too"
                    } else {
                        "who does not want it"
                    }
                );
                return Err((node, what));
            }
        }
        let known = |entry: &SessionEntry| {
            let other = node_of(entry.key.peer.into(), ends.len());
            other.is_some_and(|other| wants[node].contains(&other))
        };
        if let Some(entry) = sessions.iter().find(|entry| !known(entry)) {
            let peer = Ipv4Addr::from(entry.key.peer);
            return Err((node, format!("a session with {peer}, whom nobody wants")));
        }
    }
    Ok(())
}
