//! Neighbours of Ethernet interfaces: the search for them, and frames that go to them.

use std::net::Ipv4Addr;

use super::beside::{Beside, Mac};
use super::check::MENDED_NS;
use super::machine::{Machine, TUNNEL, address_of, node_of};
use super::node::Undo;
use super::world::{MS, SECOND, World};
use crate::engine::state::keys::peer_key;

/// How often a neighbour is searched for, once a second, before it has failed.
const SEARCHES: u8 = 3;

impl Machine {
    /// Returns the index of its served interface if that is Ethernet, and what is remembered of it.
    fn ethernet(&mut self) -> Option<(u32, &mut Beside)> {
        let tunnel = self.tunnel()?;
        Some((tunnel, self.beside.as_mut()?))
    }

    /// Its Ethernet address is another one from now on.
    fn set_mac(&mut self, mac: Mac, now_ns: u64) {
        if let Some(beside) = &mut self.beside {
            (beside.mac, beside.mac_ns) = (mac, now_ns);
            beside.since_ns.clear();
        }
        self.turn();
        if let Some((ifindex, _)) = self.ethernet() {
            self.change(|net| net.set_mac(ifindex, mac));
        }
    }

    /// A node says what its Ethernet address is: who knows it takes note.
    fn hear_of(&mut self, address: Ipv4Addr, mac: Mac, now_ns: u64) {
        let Some((ifindex, beside)) = self.ethernet() else {
            return;
        };
        beside.since_ns.insert(address, now_ns);
        let known = self.net.borrow().neighbours(ifindex);
        if known.iter().any(|(known, _)| *known == address) {
            self.change(|net| net.set_neighbour(ifindex, address, mac, false));
        }
    }

    /// A neighbour does not answer any more.
    pub(super) fn lose_neighbour(&mut self, address: Ipv4Addr, now_ns: u64) {
        if let Some((ifindex, beside)) = self.ethernet() {
            beside.since_ns.insert(address, now_ns);
            self.change(|net| net.lose_neighbour(ifindex, address).then_some(()).ok_or(()));
        }
    }

    /// The search for a neighbour has come to an end.
    fn answer(&mut self, ifindex: u32, address: Ipv4Addr, mac: Option<Mac>, now_ns: u64) {
        if let Some(beside) = &mut self.beside {
            beside.since_ns.insert(address, now_ns);
        }
        self.change(|net| {
            net.answer_for(ifindex, address, mac);
            Ok::<_, ()>(())
        });
    }

    /// Looks at the Ethernet addresses of a frame that leaves for a node while the agent is settled.
    pub(super) fn look_at_macs(
        &self,
        (to, from): (Mac, Mac),
        node: usize,
        now_ns: u64,
    ) -> Result<(), String> {
        let (Some(beside), Some(tunnel)) = (&self.beside, self.tunnel()) else {
            return Ok(());
        };
        if from != beside.mac && beside.mac_ns + MENDED_NS < now_ns {
            return Err(format!(
                "a frame to node {node} from an earlier Ethernet address"
            ));
        }
        let peer = address_of(node);
        let via = self.kernel.borrow().maps().and_then(|maps| {
            let via = maps.peer(&peer_key(TUNNEL, peer))?.via;
            (via != [0; 4]).then_some(Ipv4Addr::from(via))
        });
        let hop = via.unwrap_or(peer);
        let recent = |hop: &Ipv4Addr| {
            let since_ns = beside.since_ns.get(hop);
            since_ns.is_some_and(|since_ns| since_ns + MENDED_NS >= now_ns)
        };
        let known = self.net.borrow().neighbours(tunnel);
        // Who has another gateway by now is told on the way that there was.
        let turned = self.turned_ns() + MENDED_NS >= now_ns;
        if known.contains(&(hop, to)) || recent(&hop) || turned {
            return Ok(());
        }
        Err(format!(
            "a frame to node {node} for another Ethernet address than {hop}'s"
        ))
    }
}

impl World {
    /// Has the neighbours searched for that a node's kernel asks about.
    pub(super) fn search(&mut self, number: usize) {
        let now_ns = self.now_ns;
        let node = &mut self.nodes[number];
        if node.machine.beside.is_none() {
            return;
        }
        let resolving = node.machine.net.borrow().resolving();
        for (ifindex, address) in resolving {
            if node.searched.insert((ifindex, address)) {
                let at_ns = now_ns + self.rng.u64(MS..50 * MS);
                node.undo.push((at_ns, Undo::Search(ifindex, address, 1)));
            }
        }
    }

    /// A neighbour has been asked so often, and answers or does not.
    pub(super) fn searched(&mut self, number: usize, ifindex: u32, address: Ipv4Addr, times: u8) {
        let now_ns = self.now_ns;
        let other = node_of(address, self.wire.nodes());
        let is_there = other.is_none_or(|other| {
            let lost = self.wire.loses(number, other, &mut self.rng)
                || self.wire.loses(other, number, &mut self.rng);
            !lost && self.nodes[other].mute_until_ns <= now_ns
        });
        let mac = self.segment.of(address).filter(|_| is_there);
        let node = &mut self.nodes[number];
        if mac.is_some() || times == SEARCHES {
            node.searched.remove(&(ifindex, address));
            node.machine.answer(ifindex, address, mac, now_ns);
        } else {
            let undo = Undo::Search(ifindex, address, times + 1);
            node.undo.push((now_ns + SECOND, undo));
        }
    }

    /// A node gets another Ethernet address, which the others do not know yet.
    pub(super) fn renew(&mut self, number: usize) {
        self.segment.renew(number);
        let mac = self.segment.mac(number);
        self.nodes[number].machine.set_mac(mac, self.now_ns);
    }

    /// A node tells all others its Ethernet address (a gratuitous ARP).
    pub(super) fn announce(&mut self, number: usize) {
        let (mac, now_ns) = (self.segment.mac(number), self.now_ns);
        for (other, node) in self.nodes.iter_mut().enumerate() {
            if other != number && node.machine.beside.is_some() {
                node.machine.hear_of(address_of(number), mac, now_ns);
                node.next_ns = node.next_ns.min(now_ns + 1);
            }
        }
    }
}
