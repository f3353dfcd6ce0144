//! What must hold everywhere once everything is well again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dz_common::map::{Origin, SessionEntry};
use dz_common::packet::State;

use super::beside;
use super::client::Client;
use super::machine::{Machine, Place, address_of, node_of};
use super::seen::{peer_of, peers, routes, sessions};
use crate::memory::programs::gate::Gate;

/// Length of an IPv4 header.
const HEADER_LEN: usize = 20;
/// The protocol of packets that the gate is asked about: ICMP.
const ICMP: u8 = 1;

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

/// Looks whether all have agreed: where two nodes want each other, both are Up and have a route, ours or the
/// one that is followed; where one wants the other, it is not Up, and there is none of ours. Traffic goes
/// where the gate should send it.
pub(super) fn look(ends: &[Ends], wants: &[BTreeSet<usize>]) -> Result<(), (usize, String)> {
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
        let (sessions, peers) = (sessions(machine), peers(machine));
        for &other in &wants[node] {
            let peer = address_of(other);
            let mutual = wants[other].contains(&node);
            let session = sessions
                .iter()
                .find(|entry| Ipv4Addr::from(entry.key.peer) == peer);
            let state = session.map(|entry| entry.session.state);
            let route = routes.iter().any(|route| route.dst == peer);
            if let (Some(session), Some(wanted)) = (session, peer_of(&peers, peer))
                && session.session.timers != wanted.timers
            {
                let what = format!("with {peer}: {:?}, not {wanted:?}", session.session.timers);
                return Err((node, what));
            }
            let origin = peer_of(&peers, peer).map(|peer| peer.origin);
            let routed = match origin {
                Some(Origin::Follow) => !route,
                // Where somebody else's is, there is no place for ours.
                _ => mutual == route || machine.has_in_place(peer),
            };
            if mutual != (state == Some(State::Up)) || !routed {
                let what = format!(
                    "with {peer} ({origin:?}), {}: {state:?}, route of ours: {route}",
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
        if let Some(entry) = sessions.iter().find(|entry| is_held(entry)) {
            let peer = Ipv4Addr::from(entry.key.peer);
            return Err((
                node,
                format!("with {peer}, whose session is held: {}", entry.held),
            ));
        }
        if let Some(entry) = sessions.iter().find(|entry| !known(entry)) {
            let peer = Ipv4Addr::from(entry.key.peer);
            return Err((node, format!("a session with {peer}, whom nobody wants")));
        }
        traffic(machine, &sessions).map_err(|what| (node, what))?;
    }
    Ok(())
}

/// Says whether a session is Up, and held or quiet all the same.
pub(super) fn is_held(entry: &SessionEntry) -> bool {
    entry.session.state == State::Up && entry.held != 0
}

/// Looks what the gate makes of packets for each peer.
fn traffic(machine: &Machine, sessions: &[SessionEntry]) -> Result<(), String> {
    for entry in sessions {
        let peer = Ipv4Addr::from(entry.key.peer);
        let allocated = machine.place == Place::Tunnel;
        let confined = allocated && entry.key.local == machine.address().octets();
        let expected = match entry.session.state {
            State::Up if !entry.is_held() => Gate::Pass,
            _ if entry.session.ups == 0 => Gate::Pass,
            _ if confined || !machine.has_way_around() => Gate::Drop,
            _ => Gate::Divert(machine.nic),
        };
        let mut packet = [0; HEADER_LEN];
        (packet[0], packet[9]) = (0x45, ICMP);
        packet[12..16].copy_from_slice(&entry.key.local);
        packet[16..20].copy_from_slice(&entry.key.peer);
        let frame = match &machine.beside {
            Some(beside) => beside::frame((Default::default(), beside.mac), &packet),
            None => packet.to_vec(),
        };
        let mut kernel = machine.kernel.borrow_mut();
        let gate = kernel.gate(entry.key.ifindex, &frame);
        if gate != expected {
            let state = entry.session.state;
            return Err(format!(
                "on packets for {peer} in {state:?}: {gate:?}, not {expected:?}"
            ));
        }
    }
    Ok(())
}
