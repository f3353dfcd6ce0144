//! What the other routing daemon of a node does to its machine.

use std::net::Ipv4Addr;

use super::daemon::{BGP, Deed, GATEWAYS, Manner, STATIC, Slot};
use super::machine::{Machine, Place, SCOPE_LINK, address_of};
use crate::memory::net::{Author, Entry, Kind, Mode, Which};

/// The socket by which it changes routes.
const SOCKET: u32 = 8;
const SCOPE_UNIVERSE: u8 = 0;

impl Machine {
    /// The daemon does something. Returns whom it concerns.
    pub(super) fn carry(&mut self, deed: Deed, now_ns: u64) -> Vec<usize> {
        let mut others: Vec<_> = self.daemon.means().collect();
        others.dedup();
        let concerns = match deed {
            Deed::Put(other, slot, manner, mode) => {
                self.daemon.note(other, slot, manner, mode);
                self.put_route(other, slot, manner, mode);
                vec![other]
            }
            Deed::Take(other, slot) => {
                self.daemon.forget(other, slot);
                let mut which = Which::to(slot.table(), address_of(other), 32);
                (which.metric, which.protocol) = (slot.metric(), slot.protocol());
                self.change(|net| net.delete_entry(Author::Other(SOCKET), &which));
                vec![other]
            }
            Deed::Suspend(other) => {
                self.take_routes(|entry| entry.dst == address_of(other));
                vec![other]
            }
            Deed::SuspendAll => {
                self.take_routes(|_| true);
                others
            }
            Deed::Back => {
                let routes = self.daemon.routes.clone();
                for ((other, slot), manners) in routes {
                    for manner in manners {
                        self.put_route(other, slot, manner, Mode::Append);
                    }
                }
                others
            }
        };
        let touched = concerns.iter().map(|other| (*other, now_ns));
        self.daemon.touched_ns.extend(touched);
        concerns
    }

    /// It has one plain route to each node that it means to have any to.
    pub(super) fn settle_daemon(&mut self, now_ns: u64) {
        self.take_routes(|_| true);
        let routes = std::mem::take(&mut self.daemon.routes);
        for (other, _) in routes.into_keys() {
            let there = self.daemon.routes.contains_key(&(other, Slot::First));
            if !there {
                self.carry(Deed::plain(other), now_ns);
            }
        }
    }

    fn put_route(&self, other: usize, slot: Slot, manner: Manner, mode: Mode) {
        let by_tunnel = !matches!(manner, Manner::Elsewhere | Manner::Blackhole);
        let Some(tunnel) = self.tunnel().or_else(|| (!by_tunnel).then_some(0)) else {
            return;
        };
        let plain = Entry {
            table: slot.table(),
            dst: address_of(other),
            prefix_len: 32,
            tos: 0,
            metric: slot.metric(),
            protocol: slot.protocol(),
            scope: SCOPE_LINK,
            kind: Kind::Unicast,
            ifindex: Some(tunnel),
            src: Some(self.address()),
            via: None,
        };
        let entry = match manner {
            Manner::Plain => plain,
            Manner::Via(which) => Entry {
                scope: SCOPE_UNIVERSE,
                via: Some(GATEWAYS[usize::from(which % 2)]),
                ..plain
            },
            Manner::Outer => Entry {
                src: Some(self.outer()),
                ..plain
            },
            Manner::Unsaid => Entry {
                scope: SCOPE_UNIVERSE,
                src: None,
                ..plain
            },
            Manner::Elsewhere => Entry {
                ifindex: Some(self.nic),
                src: None,
                ..plain
            },
            Manner::Blackhole => Entry {
                scope: SCOPE_UNIVERSE,
                kind: Kind::Blackhole,
                ifindex: None,
                src: None,
                ..plain
            },
        };
        self.change(|net| net.add_entry(Author::Other(SOCKET), entry, mode));
    }

    fn take_routes(&self, which: impl Fn(&Entry) -> bool) {
        let entries = self.kept().clone();
        for entry in entries {
            if ![BGP, STATIC].contains(&entry.protocol) || entry.prefix_len != 32 || !which(&entry)
            {
                continue;
            }
            let which = Which {
                metric: entry.metric,
                protocol: entry.protocol,
                kind: Some(entry.kind),
                ifindex: entry.ifindex,
                src: entry.src,
                via: entry.via,
                ..Which::to(entry.table, entry.dst, 32)
            };
            self.change(|net| net.delete_entry(Author::Other(SOCKET), &which));
        }
    }

    /// Returns the address that packets over a followed route are sent from: that of the route or, of the
    /// tunnel's, the allocated one or else the one that it starts from. None if there is no such one.
    pub(super) fn source_of(&self, entry: &Entry) -> Option<Ipv4Addr> {
        let unsaid = || match self.place {
            Place::Tunnel => Some(self.address()),
            Place::Nic | Place::Nowhere => self.beside.is_none().then(|| self.outer()),
        };
        entry.src.or_else(unsaid)
    }
}
