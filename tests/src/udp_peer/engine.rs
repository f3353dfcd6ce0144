//! The peer without its socket: sessions, what is due when, and what is to be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dz_common::packet::{PACKET_LEN, Packet, State};
use dz_common::session::{DownReason, NS_PER_US, Session};

use super::config::UdpPeerConfig;
use super::machine::{self, Machine};

/// A state change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at_ns: u64,
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// Why, if it went down.
    pub reason: DownReason,
}

/// What a session looks like now, and what it has been through.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The other end.
    pub peer: Ipv4Addr,
    /// The session: state, reasons, discriminators, instants.
    pub session: Session,
    /// Every state change, oldest first, restarts not included.
    pub changes: Vec<Change>,
    /// Valid packets received from the peer.
    pub received: u64,
    /// Of those, packets that rule 1 or 2 ignored; by our rules every one that is not proven.
    pub ignored: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets that the socket refused to send.
    pub send_errors: u64,
}

/// What arrived and belonged to no session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// Valid packets from an unknown address.
    pub unknown: u64,
    /// Payloads that are no liveness packets.
    pub invalid: u64,
    /// Errors that the socket reported on receiving.
    pub socket_errors: u64,
}

#[derive(Debug)]
struct Peer {
    machine: Machine,
    /// When the clock looks at the session next.
    tick_ns: u64,
    /// Its place in `Engine::due`.
    due_ns: u64,
    changes: Vec<Change>,
    received: u64,
    ignored: u64,
    sent: u64,
    send_errors: u64,
}

#[derive(Debug)]
pub(super) struct Engine {
    config: UdpPeerConfig,
    peers: BTreeMap<Ipv4Addr, Peer>,
    /// What is due when: the work of a wake-up does not grow with the number of sessions.
    due: BTreeSet<(u64, Ipv4Addr)>,
    outgoing: Vec<(Ipv4Addr, [u8; PACKET_LEN])>,
    strays: Strays,
    silent: bool,
    stopped: bool,
}

impl Engine {
    pub(super) fn new(config: UdpPeerConfig) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            due: BTreeSet::new(),
            outgoing: Vec::new(),
            strays: Strays::default(),
            silent: false,
            stopped: false,
        }
    }

    pub(super) fn add(&mut self, addr: Ipv4Addr, now_ns: u64) {
        let peer = Peer::new(&self.config, addr, now_ns);
        assert!(
            self.peers.insert(addr, peer).is_none(),
            "there is a session with {addr} already"
        );
        self.reschedule(addr);
    }

    pub(super) fn receive(&mut self, from: Ipv4Addr, payload: &[u8], now_ns: u64) {
        if self.silent {
            return;
        }
        let Ok(packet) = Packet::decode(payload) else {
            self.strays.invalid += 1;
            return;
        };
        let Some(peer) = self.peers.get_mut(&from) else {
            self.strays.unknown += 1;
            return;
        };
        if let Some(answer) = peer.receive(&packet, &self.config, now_ns) {
            self.outgoing.push((from, answer.encode()));
        }
        self.reschedule(from);
    }

    /// Expires and transmits what is due.
    pub(super) fn run_due(&mut self, now_ns: u64) {
        while let Some(&(due_ns, addr)) = self.due.first()
            && due_ns <= now_ns
        {
            let Some(peer) = self.peers.get_mut(&addr) else {
                self.due.pop_first();
                continue;
            };
            peer.step(now_ns, |machine| machine.expire(now_ns));
            if self.silent {
                let interval_us = peer.machine.session().tx_interval_us();
                peer.tick_ns = now_ns + u64::from(interval_us) * NS_PER_US;
            } else if let Some(packet) = peer.tick(&self.config, now_ns) {
                self.outgoing.push((addr, packet.encode()));
            }
            self.reschedule(addr);
        }
    }

    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.due.first().map(|(due_ns, _)| *due_ns)
    }

    /// Hands everything to be sent to `send`, which says whether it went out.
    pub(super) fn send_all(&mut self, send: impl Fn(Ipv4Addr, &[u8]) -> bool) {
        for (addr, bytes) in self.outgoing.drain(..) {
            let went = send(addr, &bytes);
            if let Some(peer) = self.peers.get_mut(&addr) {
                let count = if went {
                    &mut peer.sent
                } else {
                    &mut peer.send_errors
                };
                *count += 1;
            }
        }
    }

    pub(super) fn admin_down(&mut self, addr: Ipv4Addr, now_ns: u64) {
        if let Some(peer) = self.peers.get_mut(&addr) {
            peer.step(now_ns, |machine| machine.admin_down(now_ns));
            self.reschedule(addr);
        }
    }

    pub(super) fn admin_up(&mut self, addr: Ipv4Addr, now_ns: u64) {
        if let Some(peer) = self.peers.get_mut(&addr) {
            peer.step(now_ns, |machine| machine.admin_up(now_ns));
            self.reschedule(addr);
        }
    }

    pub(super) fn set_silent(&mut self, silent: bool, now_ns: u64) {
        self.silent = silent;
        let addrs: Vec<_> = self.peers.keys().copied().collect();
        for addr in addrs {
            if let Some(peer) = self.peers.get_mut(&addr) {
                peer.step(now_ns, |machine| machine.hurry(now_ns));
            }
            self.reschedule(addr);
        }
    }

    pub(super) fn restart(&mut self, now_ns: u64) {
        let addrs: Vec<_> = self.peers.keys().copied().collect();
        for addr in addrs {
            if let Some(peer) = self.peers.get_mut(&addr) {
                let machine = Machine::new(&self.config, machine::random(), addr, now_ns);
                peer.tick_ns = machine.due_ns(now_ns);
                peer.machine = machine;
            }
            self.reschedule(addr);
        }
    }

    pub(super) fn snapshots(&self) -> Vec<Snapshot> {
        self.peers
            .iter()
            .map(|(addr, peer)| peer.snapshot(*addr))
            .collect()
    }

    pub(super) fn snapshot(&self, addr: Ipv4Addr) -> Option<Snapshot> {
        self.peers.get(&addr).map(|peer| peer.snapshot(addr))
    }

    pub(super) fn strays(&self) -> Strays {
        self.strays
    }

    pub(super) fn note_socket_error(&mut self) {
        self.strays.socket_errors += 1;
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    fn reschedule(&mut self, addr: Ipv4Addr) {
        if let Some(peer) = self.peers.get_mut(&addr) {
            self.due.remove(&(peer.due_ns, addr));
            peer.due_ns = peer.tick_ns.min(peer.machine.deadline_ns());
            self.due.insert((peer.due_ns, addr));
        }
    }
}

impl Peer {
    fn new(config: &UdpPeerConfig, addr: Ipv4Addr, now_ns: u64) -> Self {
        let discr = config.local_discr.unwrap_or_else(machine::random);
        let machine = Machine::new(config, discr, addr, now_ns);
        Self {
            tick_ns: machine.due_ns(now_ns),
            due_ns: now_ns,
            machine,
            changes: Vec::new(),
            received: 0,
            ignored: 0,
            sent: 0,
            send_errors: 0,
        }
    }

    fn receive(&mut self, packet: &Packet, config: &UdpPeerConfig, now_ns: u64) -> Option<Packet> {
        let (believed, answer) =
            self.step(now_ns, |machine| machine.receive(packet, config, now_ns));
        self.received += 1;
        self.ignored += u64::from(!believed);
        answer
    }

    fn tick(&mut self, config: &UdpPeerConfig, now_ns: u64) -> Option<Packet> {
        let packet = self.machine.tick(config, now_ns);
        self.tick_ns = self.machine.due_ns(now_ns);
        packet
    }

    /// Does something to the session; records the change of state, if it is one, and looks when the
    /// clock has its turn now.
    fn step<T>(&mut self, now_ns: u64, act: impl FnOnce(&mut Machine) -> T) -> T {
        let from = self.machine.session().state;
        let done = act(&mut self.machine);
        let session = self.machine.session();
        if session.state != from {
            self.changes.push(Change {
                at_ns: now_ns,
                from,
                to: session.state,
                reason: session.down_reason,
            });
        }
        self.tick_ns = self.machine.due_ns(now_ns);
        done
    }

    fn snapshot(&self, peer: Ipv4Addr) -> Snapshot {
        Snapshot {
            peer,
            session: *self.machine.session(),
            changes: self.changes.clone(),
            received: self.received,
            ignored: self.ignored,
            sent: self.sent,
            send_errors: self.send_errors,
        }
    }
}
