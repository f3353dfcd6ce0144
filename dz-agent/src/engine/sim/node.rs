//! One node: its machine, its agent, and the operator who wants peers.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dz_common::map::Origin;
use tokio::sync::oneshot;

use super::agent::Agent;
use super::agreement::is_held;
use super::check::{MENDED_NS, Watch};
use super::client::Client;
use super::daemon::Deed;
use super::machine::{Machine, address_of, node_of};
use super::seen::{peers, sessions};
use crate::command::{Command, Disconnected, Named, Refusal, Selector};
use crate::settings::PeerSpec;

type Gone = oneshot::Receiver<Result<Vec<Disconnected>, Refusal>>;

/// A node, and what is to happen to it.
pub(super) struct Node {
    pub(super) machine: Machine,
    pub(super) agent: Option<Agent>,
    /// In place of an agent, the deployed client.
    pub(super) client: Option<Client>,
    pub(super) watch: Watch,
    pub(super) wants: BTreeSet<usize>,
    /// Disconnects that have not been answered.
    pub(super) asked: Vec<(Vec<usize>, Gone)>,
    /// When it is to be looked at next, ns.
    pub(super) next_ns: u64,
    pub(super) frozen_until_ns: u64,
    pub(super) refused_until_ns: u64,
    /// When what was refused last has been tried again, ns.
    pub(super) calm_ns: u64,
    pub(super) start_at_ns: Option<u64>,
    /// When what was done to it is undone: the tunnel, the routes of another daemon.
    pub(super) undo: Vec<(u64, Undo)>,
    /// Neighbours that are being searched for.
    pub(super) searched: BTreeSet<(u32, Ipv4Addr)>,
    /// Until then it does not answer who searches for it, ns.
    pub(super) mute_until_ns: u64,
    pub(super) purge: bool,
    /// When its agent was started last, ns.
    pub(super) started_ns: u64,
    /// When an agent that was to die after some more effects dies without having had them, ns.
    pub(super) kill_by_ns: Option<u64>,
    /// How many effects its agent had had when it was looked at last, and when that was, ns.
    pub(super) seen: (Option<u64>, u64),
    /// After how many ms an agent that has ended is started again.
    pub(super) restart_ms: u64,
}

/// Something that was done to a node ends.
#[derive(Clone, Copy)]
pub(super) enum Undo {
    Up,
    Make,
    Unforeign(Ipv4Addr),
    Way(usize),
    Daemon(Deed),
    /// A neighbour has been searched for so often.
    Search(u32, Ipv4Addr, u8),
    /// The others hear of its Ethernet address.
    Announce,
    /// Somebody connects another node.
    Connect(usize),
    /// Somebody disconnects it.
    Disconnect(usize),
}

impl Node {
    /// A node whose agent is about to be started for the first time.
    pub(super) fn new(machine: Machine, begun_ns: u64) -> Self {
        Self {
            machine,
            agent: None,
            client: None,
            watch: Watch::default(),
            wants: BTreeSet::new(),
            asked: Vec::new(),
            next_ns: begun_ns,
            frozen_until_ns: 0,
            refused_until_ns: 0,
            calm_ns: 0,
            start_at_ns: Some(begun_ns),
            undo: Vec::new(),
            searched: BTreeSet::new(),
            mute_until_ns: 0,
            purge: false,
            started_ns: begun_ns,
            kill_by_ns: None,
            seen: (None, 0),
            restart_ms: 100,
        }
    }

    pub(super) fn connect(&mut self, other: usize) {
        let Some(agent) = self.agent.as_mut().filter(|agent| !agent.is_stopping()) else {
            return;
        };
        let (reply, _) = oneshot::channel();
        let peers = vec![PeerSpec::new(address_of(other), self.machine.address())];
        agent.commands.push_back(Command::Connect { peers, reply });
        self.wants.insert(other);
        self.watch.gone.remove(&other);
    }

    pub(super) fn disconnect(&mut self, others: Vec<usize>) {
        let named = others.iter().map(|other| Named {
            interface: None,
            peer: address_of(*other),
        });
        let selector = Selector::Peers(named.collect());
        self.disconnect_by(selector, others);
    }

    /// Disconnects everybody who was connected by request (`dz-agent disconnect --all`).
    pub(super) fn disconnect_all(&mut self) {
        let others = self.wants.iter().copied().collect();
        self.disconnect_by(Selector::All { interface: None }, others);
    }

    fn disconnect_by(&mut self, selector: Selector, others: Vec<usize>) {
        let Some(agent) = self.agent.as_mut().filter(|agent| !agent.is_stopping()) else {
            return;
        };
        let (reply, answer) = oneshot::channel();
        agent
            .commands
            .push_back(Command::Disconnect { selector, reply });
        for other in &others {
            self.wants.remove(other);
        }
        // A followed route to one of them may have another gateway.
        self.machine.turn();
        self.asked.push((others, answer));
    }

    /// Says whether its agent runs, is not frozen, and has not been refused anything for longer than anything is
    /// put off.
    pub(super) fn is_well(&self, now_ns: u64) -> bool {
        let agent = self.agent.as_ref();
        let runs = agent.is_some_and(|agent| !agent.is_stopping());
        let calm = self.refused_until_ns == 0 && self.calm_ns <= now_ns;
        runs && self.frozen_until_ns <= now_ns && calm
    }

    /// Says whether its agent holds a session that is Up.
    pub(super) fn has_held(&self) -> bool {
        self.client.is_none() && sessions(&self.machine).iter().any(is_held)
    }

    /// Says whether that has been so for as long as it takes to notice anything.
    pub(super) fn is_settled(&self, now_ns: u64) -> bool {
        let since_ns = [self.started_ns, self.frozen_until_ns, self.calm_ns];
        let since_ns = since_ns.into_iter().max().unwrap_or_default();
        self.is_well(now_ns) && since_ns + MENDED_NS < now_ns
    }

    /// The daemon does something.
    pub(super) fn carry(&mut self, deed: Deed, now_ns: u64) {
        for other in self.machine.carry(deed, now_ns) {
            self.watch.churned(other, now_ns);
        }
    }

    /// The daemon does something, then or now.
    pub(super) fn do_by(&mut self, at_ns: u64, deed: Deed) {
        self.undo.push((at_ns, Undo::Daemon(deed)));
    }

    /// The daemon puts back what the kernel has taken from it.
    pub(super) fn put_back_by(&mut self, at_ns: u64) {
        if self.machine.follows {
            self.do_by(at_ns, Deed::Back);
        }
    }

    /// Returns who is wanted: by the operator, or by the daemon, whose routes are followed.
    pub(super) fn wanted(&self) -> BTreeSet<usize> {
        let requested = self.wants.iter().copied();
        requested.chain(self.machine.daemon.means()).collect()
    }

    /// The operator looks whether the agent has just those peers that he wants, and asks for what is missing.
    pub(super) fn operate(&mut self, nodes: usize) {
        let Some(agent) = self.agent.as_ref().filter(|agent| agent.is_idle()) else {
            return;
        };
        if agent.is_stopping() || !agent.commands.is_empty() || !self.asked.is_empty() {
            return;
        }
        let has = peers(&self.machine);
        let has = has.iter().filter(|(_, peer)| peer.origin == Origin::Api);
        let has = has.filter_map(|(peer, _)| node_of(*peer, nodes));
        let has: BTreeSet<_> = has.collect();
        // Who is followed is not to be connected.
        let followed: BTreeSet<_> = self.machine.daemon.means().collect();
        let missing = self.wants.difference(&has);
        let missing: Vec<_> = missing
            .filter(|other| !followed.contains(other))
            .copied()
            .collect();
        let others: Vec<_> = has.difference(&self.wants).copied().collect();
        for other in missing {
            self.connect(other);
        }
        if !others.is_empty() {
            self.disconnect(others);
        }
    }
}
