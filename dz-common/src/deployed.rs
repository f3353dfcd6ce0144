//! The deployed client's rules, where ours differ: what it believes, what it echoes, and when it
//! transmits.
//!
//! For the host alone: recordings are replayed with them, and test peers follow them. No kernel
//! program has them.

use crate::packet::{Packet, State, Version};
use crate::session::{NS_PER_US, Receipt, Session, Timers};

/// Says when a deployed client transmits a new state, which depends on its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Before 0.32: when its back-off has passed, which a change of state does not cut short.
    Before0_32,
    /// Since 0.32: at once, but not within an interval of the last transmission.
    Since0_32,
}

/// A deployed client's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The state that it has in common with a session of ours.
    pub session: Session,
    /// The versions whose pacing it follows.
    pub release: Release,
}

impl Deployed {
    /// A session in Down. The first packet comes one interval after it is registered, which is for
    /// the caller to see to: [`Session::next_tx_ns`] is the instant of its first.
    #[must_use]
    pub const fn new(timers: Timers, local_discr: u32, release: Release, now_ns: u64) -> Self {
        let mut session = Session::new(timers, local_discr, now_ns);
        session.next_tx_ns = now_ns + session.tx_interval_us() as u64 * NS_PER_US;
        Self { session, release }
    }

    /// Steps the machine by one decoded packet, by rules 1 to 7 as deployed: what echoes nothing is
    /// believed, and a discriminator once learned is let go of only while Up.
    pub fn receive(&mut self, packet: &Packet, now_ns: u64) -> Receipt {
        let before = self.session;
        if before.state == State::AdminDown {
            return Receipt::AdminDown; // rule 1
        }
        if packet.your_discr != 0 && packet.your_discr != before.local_discr {
            return Receipt::WrongDiscriminator; // rule 2
        }
        let receipt = self.session.believe(packet, now_ns);
        if receipt == Receipt::Accepted && (before.state == State::Up || before.peer_discr == 0) {
            self.session.peer_discr = packet.my_discr; // rule 6
        }
        self.announce_changed(&before, now_ns);
        receipt
    }

    /// Takes the session Down if its detection deadline has passed. Returns whether it did.
    pub fn expire(&mut self, now_ns: u64) -> bool {
        let before = self.session;
        let expired = self.session.expire(now_ns);
        self.announce_changed(&before, now_ns);
        expired
    }

    /// Makes the packet that it would transmit now. It echoes the discriminator that it has learned in every state.
    #[must_use]
    pub const fn packet(&self, version: Version) -> Packet {
        Packet {
            your_discr: self.session.peer_discr,
            ..self.session.packet(version)
        }
    }

    /// Transmits if its time has come. `random` is uniform over `u32`.
    pub fn tick(&mut self, now_ns: u64, version: Version, random: u32) -> Option<Packet> {
        if now_ns < self.session.next_tx_ns {
            return None;
        }
        self.session.transmitted(now_ns, random);
        if self.session.state == State::AdminDown {
            self.session.next_tx_ns = u64::MAX; // announced, not repeated
        }
        Some(self.packet(version))
    }

    /// Since 0.32 a new state goes out as soon as an interval has passed since the last packet.
    fn announce_changed(&mut self, before: &Session, now_ns: u64) {
        let session = &mut self.session;
        if session.state != before.state && self.release == Release::Since0_32 {
            let interval_ns = session.tx_interval_us() as u64 * NS_PER_US;
            let paced_ns = if session.last_tx_ns == 0 {
                now_ns
            } else {
                session.last_tx_ns + interval_ns
            };
            session.next_tx_ns = session.next_tx_ns.min(paced_ns.max(now_ns));
        }
    }
}
