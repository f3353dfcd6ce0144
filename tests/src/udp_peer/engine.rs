//! The peer without its socket: sessions, what is due when, and what is to be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;

use dz_common::counters::Counter;
use dz_common::entry::Identity;
use dz_common::map::{ABI_VERSION, Config, NEVER_NS, SessionEntry, SessionKey};
use dz_common::pacing::{Answer, Tick};
use dz_common::packet::{PACKET_LEN, Packet, State};
use dz_common::session::{DownReason, NS_PER_US, Session};

use super::{Rules, UdpPeerConfig};

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
    /// Of those, packets that rule 1 or 2 ignored.
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
    entry: SessionEntry,
    /// When the clock looks at the session next.
    tick_ns: u64,
    /// Its place in `Engine::due`.
    due_ns: u64,
    changes: Vec<Change>,
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
        let session = Session::new(self.config.timers, self.discriminator(), now_ns);
        let peer = Peer {
            entry: entry(session, self.config.local, addr),
            tick_ns: now_ns,
            due_ns: now_ns,
            changes: Vec::new(),
            ignored: 0,
            sent: 0,
            send_errors: 0,
        };
        assert!(
            self.peers.insert(addr, peer).is_none(),
            "there is a session with {addr} already"
        );
        self.due.insert((now_ns, addr));
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
            peer.expire(now_ns);
            if self.silent {
                peer.tick_ns = now_ns + u64::from(peer.entry.session.tx_interval_us()) * NS_PER_US;
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
            let transition = peer.entry.admin_down(now_ns);
            peer.note(
                transition.map(|change| (change.from, change.reason)),
                now_ns,
            );
            self.reschedule(addr);
        }
    }

    pub(super) fn admin_up(&mut self, addr: Ipv4Addr, now_ns: u64) {
        if let Some(peer) = self.peers.get_mut(&addr)
            && peer.entry.session.admin_up(now_ns)
        {
            let reason = peer.entry.session.down_reason;
            peer.note(Some((State::AdminDown, reason)), now_ns);
            self.reschedule(addr);
        }
    }

    pub(super) fn set_silent(&mut self, silent: bool, now_ns: u64) {
        self.silent = silent;
        let addrs: Vec<_> = self.peers.keys().copied().collect();
        for addr in addrs {
            if let Some(peer) = self.peers.get_mut(&addr) {
                peer.tick_ns = now_ns;
            }
            self.reschedule(addr);
        }
    }

    pub(super) fn restart(&mut self, now_ns: u64) {
        let addrs: Vec<_> = self.peers.keys().copied().collect();
        for addr in addrs {
            if let Some(peer) = self.peers.get_mut(&addr) {
                peer.entry.session = Session::new(self.config.timers, random(), now_ns);
                peer.tick_ns = now_ns;
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

    fn discriminator(&self) -> u32 {
        self.config.local_discr.unwrap_or_else(random)
    }

    fn reschedule(&mut self, addr: Ipv4Addr) {
        if let Some(peer) = self.peers.get_mut(&addr) {
            self.due.remove(&(peer.due_ns, addr));
            let deadline_ns = peer.entry.scan_deadline_ns();
            peer.due_ns = peer.tick_ns.min(deadline_ns);
            debug_assert_ne!(peer.due_ns, NEVER_NS);
            self.due.insert((peer.due_ns, addr));
        }
    }
}

impl Peer {
    fn receive(&mut self, packet: &Packet, config: &UdpPeerConfig, now_ns: u64) -> Option<Packet> {
        let before = self.entry.session;
        if config.rules == Rules::Deployed
            && packet.your_discr != 0
            && packet.your_discr != before.local_discr
        {
            self.entry.received += 1;
            self.ignored += 1;
            return None;
        }
        // Answering is decided below, after the deployed rule has had its say.
        let outcome = self
            .entry
            .receive(packet, &map_config(config), now_ns, false);
        if config.rules == Rules::Deployed && before.state != State::Up && before.peer_discr != 0 {
            self.entry.session.peer_discr = before.peer_discr;
        }
        let change = outcome.transition;
        self.note(change.map(|change| (change.from, change.reason)), now_ns);
        match outcome.exit {
            Counter::DropAdminDown | Counter::DropWrongDiscriminator => {
                self.ignored += 1;
                None
            }
            Counter::RxUnattended if config.answer => {
                let answer = self.entry.session.answer(change.is_some(), now_ns);
                (answer == Answer::Send).then(|| self.entry.session.packet(config.version))
            }
            // A new state is announced at once, as far as the pacing allows.
            _ if change.is_some() => self.tick(config, now_ns),
            _ => None,
        }
    }

    fn expire(&mut self, now_ns: u64) {
        let transition = self.entry.expire(now_ns);
        self.note(
            transition.map(|change| (change.from, change.reason)),
            now_ns,
        );
    }

    fn tick(&mut self, config: &UdpPeerConfig, now_ns: u64) -> Option<Packet> {
        let random = self.entry.draw();
        let (decision, next_ns) = self.entry.session.tick(now_ns, random);
        self.tick_ns = next_ns;
        (decision == Tick::Send).then(|| self.entry.session.packet(config.version))
    }

    /// Records a change from a state for a reason; a new state is looked at by the clock at once.
    fn note(&mut self, change: Option<(State, DownReason)>, now_ns: u64) {
        if let Some((from, reason)) = change {
            let to = self.entry.session.state;
            self.changes.push(Change {
                at_ns: now_ns,
                from,
                to,
                reason,
            });
            self.tick_ns = now_ns;
        }
    }

    fn snapshot(&self, peer: Ipv4Addr) -> Snapshot {
        Snapshot {
            peer,
            session: self.entry.session,
            changes: self.changes.clone(),
            received: self.entry.received,
            ignored: self.ignored,
            sent: self.sent,
            send_errors: self.send_errors,
        }
    }
}

fn map_config(config: &UdpPeerConfig) -> Config {
    Config {
        abi_version: ABI_VERSION,
        port: config.port,
        unknown_pass: 0,
        ignore_peer_passive: 0,
        version: config.version,
        groups: 0,
        grace_ns: 0,
        when_down: dz_common::gate::Action::Pass,
        when_never_up: dz_common::gate::Action::Pass,
        ttl: 64,
        tos: 0xc0,
        reserved: [0; 4],
    }
}

fn entry(session: Session, local: Ipv4Addr, peer: Ipv4Addr) -> SessionEntry {
    SessionEntry::new(
        Identity {
            key: SessionKey {
                ifindex: 0,
                local: local.octets(),
                peer: peer.octets(),
            },
            slot: 0,
            generation: 0,
            block: 0,
            seed: random(),
        },
        session,
    )
}

/// A random non-zero number: the standard library keys each hasher from the system's generator.
fn random() -> u32 {
    (RandomState::new().hash_one(()) as u32).max(1)
}
