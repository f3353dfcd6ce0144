//! Opens a session (steps C2 and C3): its deadline slot is prepared, and its entry inserted into the map.
//! Our clock transmits for it, and the route is installed when it goes Up.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, bail};
use dz_common::entry;
use dz_common::map::{Origin, PeerKey, SessionEntry, SessionKey};
use dz_common::session::{Mode, Session};

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::keys::{flow, ifname, route_key};
use crate::engine::state::sessions::Reservation;

impl<H: Hands> Engine<H> {
    /// Inserts the session of a peer, in Down, and has our clock ask for it now.
    ///
    /// # Errors
    /// Its interface is not there, an earlier session with the peer is still being closed, there is no room,
    /// or the kernel refuses.
    pub(crate) fn open(&mut self, key: &PeerKey) -> anyhow::Result<()> {
        let peer = *self.peers.get(key).context("no such peer")?;
        let interface = self.interfaces.named(ifname(key));
        let interface = interface.context("its interface is not served")?;
        let ifindex = interface.ifindex().context("its interface is not there")?;
        let session_key = SessionKey {
            ifindex,
            local: peer.local,
            peer: key.peer,
        };
        if self.sessions.owner_of(route_key(&session_key)).is_some() {
            bail!("an earlier session with it is still being closed");
        }
        let (local, address) = (Ipv4Addr::from(peer.local), Ipv4Addr::from(key.peer));
        let discr = self
            .sessions
            .discriminator(interface.name(), local, address);
        let name: Arc<str> = interface.shared_name();
        let block = self.interfaces.blocks().of(&name, peer.local);
        if self.sessions.has_resting() {
            let waited = self.hands.wait_for_programs();
            waited.context("a kernel program may still have the memory of a deleted session")?;
            self.sessions.settle();
        }
        let reservation = self.sessions.reserve();
        let reservation = reservation.context("no room for another session")?;
        let Reservation { slot, generation } = reservation;
        let now_ns = self.hands.now_ns();
        let entry = SessionEntry {
            detour: self.detours.of(flow(&session_key)).unwrap_or(0),
            held: self.sessions.damping().at_first(),
            ..SessionEntry::new(
                entry::Identity {
                    key: session_key,
                    slot,
                    generation,
                    block,
                    // Jitter needs sessions to have different seeds, no more.
                    seed: discr ^ generation.rotate_left(16) ^ now_ns as u32,
                },
                Session::new(peer.timers, discr, now_ns),
            )
        };
        self.hands.prepare_slot(slot, session_key, now_ns);
        if let Err(error) = self.hands.insert_session(&entry) {
            self.sessions.give_back(&reservation);
            return Err(error.into());
        }
        self.interfaces.host_addresses_mut().use_address(local);
        self.detours.look(flow(&session_key));
        self.look_up_ways();
        let next_hop = self.next_hop(ifindex, key.peer, Some(&peer));
        self.sessions
            .inserted(session_key, &reservation, name, next_hop, now_ns);
        if peer.timers.mode == Mode::Passive && peer.origin != Origin::Follow {
            self.adjust_route(route_key(&session_key));
        }
        Ok(())
    }
}
