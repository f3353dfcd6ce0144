//! What happens in a story, drawn from its seed.

use std::fmt;

use dz_common::deployed::Release;
use fastrand::Rng;

use super::daemon::Deed;
use super::machine::Place;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// For how long an agent may be away without any harm: the kernel part answers for 30 s after its last
/// heartbeat, which comes once a second.
const AWAY_MS: u64 = 7_500;

/// Something that happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Somebody connects another node as a peer.
    Connect(usize),
    /// Somebody disconnects it.
    Disconnect(usize),
    /// Somebody disconnects everybody.
    DisconnectAll,
    /// The agent stands still, ms.
    Freeze(u64),
    /// The agent is killed after so many more effects, and started again after so many ms.
    Kill(u64, u64),
    /// The same, and the kernel part is removed meanwhile.
    Purge(u64, u64),
    /// The agent is told to take everything back, and started again after so many ms.
    Withdraw(u64),
    /// Packets to another node are lost, of a hundred so many, for so many ms.
    Loss(usize, u8, u64),
    /// Packets to another node are delayed by up to so many ms, and doubled, for so many ms.
    Disorder(usize, u16, u64),
    /// Nothing gets to another node for so many ms.
    Cut(usize, u64),
    /// The DoubleZero address goes somewhere else.
    Move(Place),
    /// The tunnel is set down for so many ms.
    Down(u64),
    /// The tunnel is deleted, and made anew after so many ms.
    Delete(u64),
    /// Somebody deletes our route to another node.
    RouteDeleted(usize),
    /// Another daemon's route takes the place of ours for so many ms.
    Foreign(usize, u64),
    /// Of a hundred calls so many fail, for so many ms.
    Refuse(u8, u64),
    /// Somebody deletes a route of ours, and the notification of it is lost, with all others that wait.
    Deaf,
    /// From now on the ring has room for so many events.
    Cramped(usize),
    /// The daemon whose routes are followed does something.
    Daemon(Deed),
    /// The same, and the notification of it is lost, with all others that wait.
    Unheard(Deed),
    /// The daemon's routes to another node go and come back, so many times, each after so many ms.
    Flap(usize, u8, u64),
    /// The daemon takes all of its routes back, and puts them there again after so many ms.
    Reload(u64),
    /// The served interface gets another Ethernet address, of which the others hear after so many ms.
    Mac(u64),
    /// What is known of another node as a neighbour is known no longer.
    Lose(usize),
    /// Another node gets another Ethernet address and tells everybody, but the notification of it is lost.
    Missed(usize),
    /// Another node is disconnected and connected again, so many times, with so many ms in between.
    Twitch(usize, u8, u64),
    /// Searches for the node as a neighbour are not answered for so many ms.
    Mute(u64),
}

/// Something happens at a time of the story, to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happening {
    /// When, ns.
    pub at_ns: u64,
    /// To which node.
    pub node: usize,
    /// What.
    pub what: What,
}

/// A story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    /// From which everything is drawn.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: usize,
    /// Where each has its address at first.
    pub places: Vec<Place>,
    /// Which of them have the deployed client, and of which pacing; the others have the agent.
    pub clients: Vec<Option<Release>>,
    /// Which agents follow the routes of another daemon.
    pub follows: Vec<bool>,
    /// Which agents serve an Ethernet interface; the others serve a tunnel.
    pub ethernet: Vec<bool>,
    /// Nothing in it may take a session down: the agents are frozen, killed, refused and deafened, but
    /// packets get through and addresses stay.
    pub gentle: bool,
    /// Its agents let a session count when it has been Up for a while.
    pub hold_up: bool,
    /// What happens, in this order.
    pub events: Vec<Happening>,
    /// When everything is made well again, ns.
    pub healed_ns: u64,
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nodes,
            places,
            clients,
            follows,
            ethernet,
            gentle,
            hold_up,
            ..
        } = self;
        writeln!(
            f,
            "{nodes} nodes, addresses on {places:?}, gentle: {gentle}, hold-up: {hold_up}"
        )?;
        writeln!(f, "deployed clients: {clients:?}")?;
        writeln!(f, "follow: {follows:?}, Ethernet: {ethernet:?}")?;
        for Happening { at_ns, node, what } in &self.events {
            writeln!(f, "{:>8} ms  node {node}: {what:?}", at_ns / MS)?;
        }
        writeln!(f, "{:>8} ms  all is well", self.healed_ns / MS)
    }
}

impl Story {
    /// Draws a story of so many nodes.
    #[must_use]
    pub fn drawn(seed: u64, nodes: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let gentle = rng.u8(..4) == 0;
        let place = |rng: &mut Rng| {
            if rng.bool() {
                Place::Tunnel
            } else {
                Place::Nic
            }
        };
        let places = (0..nodes).map(|_| place(&mut rng)).collect();
        let client = |rng: &mut Rng| match rng.u8(..6) {
            0 => Some(Release::Before0_32),
            1 => Some(Release::Since0_32),
            _ => None,
        };
        // One agent at least.
        let clients: Vec<_> = (0..nodes)
            .map(|node| client(&mut rng).filter(|_| node > 0))
            .collect();
        let follow = |client: &Option<Release>| rng.bool() && client.is_none();
        let follows = clients.iter().map(follow).collect();
        let any_ethernet = rng.u8(..3) == 0;
        let ethernet = |client: &Option<Release>| any_ethernet && rng.bool() && client.is_none();
        let ethernet = clients.iter().map(ethernet).collect();
        let mut story = Self {
            seed,
            nodes,
            places,
            clients,
            follows,
            ethernet,
            gentle,
            hold_up: Rng::with_seed(seed ^ 0x401d).u8(..4) == 0,
            events: Vec::new(),
            healed_ns: 30 * SECOND,
        };
        // Most want each other from the beginning.
        for node in 0..nodes {
            for other in (0..nodes).filter(|other| *other != node) {
                if rng.u8(..10) < 9 {
                    let what = match story.follows[node] && rng.u8(..3) > 0 {
                        true => What::Daemon(Deed::plain(other)),
                        false => What::Connect(other),
                    };
                    story.add(rng.u64(MS..2 * SECOND), node, what);
                }
            }
        }
        let happenings = if nodes > 6 { nodes } else { rng.usize(1..12) };
        for _ in 0..happenings {
            let node = rng.usize(..nodes);
            if gentle {
                let what = story.gentle_one(&mut rng, node);
                story.add(rng.u64(8 * SECOND..25 * SECOND), node, what);
            } else {
                let what = story.any(&mut rng, node);
                let at_ns = rng.u64(SECOND..25 * SECOND);
                story.add(at_ns, node, what);
                // What is to be read again cannot be read.
                let unheard = matches!(what, What::Deaf | What::Unheard(_) | What::Missed(_));
                if unheard && rng.u8(..3) == 0 {
                    let refuse = What::Refuse(rng.u8(20..90), rng.u64(1..1_000));
                    story.add(at_ns, node, refuse);
                }
            }
        }
        if gentle {
            // One agent at a time, lest two who only answer wait for each other; and for less than the kernel
            // part answers for an agent that is away.
            for from_ns in [9 * SECOND, 18 * SECOND] {
                let what = if rng.bool() {
                    What::Freeze(rng.u64(1..AWAY_MS))
                } else {
                    What::Kill(rng.u64(..40), rng.u64(1..AWAY_MS))
                };
                let node = rng.usize(..nodes);
                if story.clients[node].is_none() {
                    story.add(from_ns + rng.u64(..SECOND), node, what);
                }
            }
        }
        story.events.sort_by_key(|event| event.at_ns);
        story
    }

    fn add(&mut self, at_ns: u64, node: usize, what: What) {
        self.events.push(Happening { at_ns, node, what });
    }

    /// Says whether a route of a daemon's makes a peer of another node from the beginning.
    fn is_followed(&self, node: usize, other: usize) -> bool {
        let plain = What::Daemon(Deed::plain(other));
        let mut events = self.events.iter();
        events.any(|event| event.node == node && event.what == plain)
    }

    fn gentle_one(&self, rng: &mut Rng, node: usize) -> What {
        let (other, beside) = (rng.usize(..self.nodes), self.ethernet[node]);
        if beside && rng.u8(..6) == 0 {
            return What::Lose(other);
        }
        if self.is_followed(node, other) && rng.bool() {
            return match rng.u8(..6) {
                0 => What::Flap(other, rng.u8(1..4), 0),
                1 => What::Reload(0),
                2 => What::Unheard(Deed::harmless(rng, other, beside)),
                _ => What::Daemon(Deed::harmless(rng, other, beside)),
            };
        }
        match rng.u8(..5) {
            0 => What::Refuse(rng.u8(1..60), rng.u64(1..2_000)),
            1 => What::RouteDeleted(other),
            // Where a followed route was, this would be its end.
            2 if !self.gentle || !self.is_followed(node, other) => {
                What::Foreign(other, rng.u64(1..8_000))
            }
            3 => What::Cramped(rng.usize(..3)),
            _ => What::Deaf,
        }
    }

    fn daemon(&self, rng: &mut Rng, other: usize) -> What {
        match rng.u8(..8) {
            0..3 => What::Daemon(Deed::any(rng, other)),
            3 => What::Unheard(Deed::any(rng, other)),
            4 => What::Reload(rng.u64(..1_000)),
            5 => What::Flap(other, rng.u8(1..4), rng.u64(..2_000)),
            _ => What::Flap(other, rng.u8(1..30), rng.u64(..12)),
        }
    }

    fn any(&self, rng: &mut Rng, node: usize) -> What {
        let other = rng.usize(..self.nodes);
        if self.follows[node] && other != node && rng.u8(..3) == 0 {
            return self.daemon(rng, other);
        }
        if self.ethernet[node] && rng.u8(..5) == 0 {
            return match rng.u8(..4) {
                0 => What::Missed(other),
                1 => What::Mac(rng.u64(..4_000)),
                2 => What::Mute(rng.u64(..8_000)),
                _ => What::Lose(other),
            };
        }
        match rng.u8(..19) {
            18 => What::Twitch(other, rng.u8(1..10), rng.u64(100..2_000)),
            0 => What::Connect(if other == node {
                (node + 1) % self.nodes
            } else {
                other
            }),
            1 | 2 => What::Disconnect(other),
            3 => What::DisconnectAll,
            4 => What::Purge(rng.u64(..60), rng.u64(1..5_000)),
            5 => What::Withdraw(rng.u64(1..5_000)),
            6 => What::Loss(other, rng.u8(10..100), rng.u64(500..8_000)),
            7 => What::Disorder(other, rng.u16(1..800), rng.u64(500..8_000)),
            8 => What::Cut(other, rng.u64(500..10_000)),
            9 => What::Move(match rng.u8(..3) {
                0 => Place::Tunnel,
                1 => Place::Nic,
                _ => Place::Nowhere,
            }),
            10 => What::Down(rng.u64(1..5_000)),
            11 => What::Delete(rng.u64(1..5_000)),
            12 => What::Freeze(rng.u64(1..10_000)),
            13 => What::Kill(rng.u64(..40), rng.u64(1..8_000)),
            _ => self.gentle_one(rng, node),
        }
    }
}
