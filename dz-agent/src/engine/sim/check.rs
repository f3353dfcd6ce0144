//! What must hold on every node after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Range;

use dz_common::map::SessionKey;
use dz_common::packet::State;
use dz_common::session::DownReason;

use super::agent::Life;
use super::machine::{Machine, TUNNEL, address_of};
use super::seen::routes;
use super::wrong::wrong;
use crate::engine::state::keys::peer_key;
use crate::net::routes::Route;

const SECOND: u64 = 1_000_000_000;
/// How long something may be other than it should be while its agent is well: what happens is read at once, lost
/// notifications are heard of at once, and lost events are missed at the next heartbeat.
pub(super) const MENDED_NS: u64 = 2 * SECOND;
/// How long packets may leave with an address after it has gone, while the agent is well.
const SPOKEN_NS: u64 = SECOND / 5;
/// Most packets from a node to another within a second. At an interval of one second each end answers
/// what it gets and transmits what it has to say: its clock, a burst at a change of state, a farewell.
const PACKETS: usize = 14;
/// How many more those are if a route of the daemon's to that node comes or goes: a session ends, another
/// one begins.
const CHURN: usize = 7;

/// What is remembered of a node between steps.
#[derive(Default)]
pub(super) struct Watch {
    /// Since when something has been other than it should be, ns.
    wrong: BTreeMap<(Ipv4Addr, &'static str), u64>,
    /// Since when an address of its sessions has been nowhere, ns.
    away_ns: Option<u64>,
    /// Peers whose disconnect has been answered, and who have not been connected since.
    pub(super) gone: BTreeSet<usize>,
    /// When packets have left, by destination.
    sent: BTreeMap<usize, Vec<u64>>,
    /// When routes of the daemon's have come or gone, by the node that they lead to.
    churned: BTreeMap<usize, Vec<u64>>,
    /// The generations of its sessions, where none of them may end.
    generations: Vec<([u8; 4], u32)>,
}

/// What is known of a node's agent when it is looked at.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    /// It runs, is not frozen, and has not been refused anything for longer than anything is put off.
    pub(super) well: bool,
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
        if sent.len() > PACKETS + CHURN * self.churns(to, now_ns) {
            let sent = &self.sent[&to];
            return Err(format!(
                "{} packets to node {to} within a second",
                sent.len()
            ));
        }
        Ok(())
    }

    /// Notes that the daemon has changed a route to a node: it may be a peer, whatever has been asked for.
    pub(super) fn churned(&mut self, other: usize, now_ns: u64) {
        self.gone.remove(&other);
        self.churned.entry(other).or_default().push(now_ns);
    }

    /// Notes that more than usual may be sent to a node around a time.
    pub(super) fn expect_churn(&mut self, other: usize, at_ns: u64) {
        self.churned.entry(other).or_default().push(at_ns);
    }

    /// Counts those changes that may have to do with what is sent within a second.
    fn churns(&self, other: usize, now_ns: u64) -> usize {
        let churned = self.churned.get(&other).map_or(&[][..], Vec::as_slice);
        let is_near = |at_ns: &&u64| **at_ns <= now_ns && **at_ns + 3 * SECOND > now_ns;
        churned.iter().filter(is_near).count()
    }

    /// Looks whether the sessions of a gentle story go on: none has gone down because nothing was heard, and
    /// none has been given up, since it was warm.
    pub(super) fn kept(
        &mut self,
        machine: &Machine,
        warm_ns: &Range<u64>,
        now_ns: u64,
    ) -> Result<(), String> {
        let kernel = machine.kernel.borrow();
        let Some(maps) = kernel.maps() else {
            return Ok(());
        };
        let sessions = || maps.sessions().iter().map(|(_, entry)| entry);
        for entry in sessions() {
            let session = &entry.session;
            let down = session.last_down_reason == DownReason::Timeout;
            if down && session.state == State::Down && session.since_ns >= warm_ns.start {
                let peer = Ipv4Addr::from(entry.key.peer);
                return Err(format!(
                    "the session with {peer} timed out, and nothing was lost"
                ));
            }
        }
        if !warm_ns.contains(&now_ns) {
            return Ok(());
        }
        let generations = || sessions().map(|entry| (entry.key.peer, entry.generation));
        if generations().eq(self.generations.iter().copied()) {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.generations, generations().collect());
        match before.iter().find(|one| !self.generations.contains(one)) {
            Some((peer, _)) => Err(format!(
                "the session with {} was given up, and nobody asked for that",
                Ipv4Addr::from(*peer)
            )),
            None => Ok(()),
        }
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
        self.wrong_for_long(machine, &routes, condition, now_ns)?;
        if !machine.is_kept() {
            return Err("a route that is not ours has changed".to_owned());
        }
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
        routes: &[Route],
        condition: Condition,
        now_ns: u64,
    ) -> Result<(), String> {
        if !condition.well {
            self.wrong.clear();
            self.away_ns = None;
            return Ok(());
        }
        let is_away = !machine.holds(machine.address());
        self.away_ns = self.away_ns.or(Some(now_ns)).filter(|_| is_away);
        let wrong = wrong(machine, routes);
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
