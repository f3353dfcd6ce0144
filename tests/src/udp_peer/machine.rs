//! A session of the peer by either kind of rules, and when it transmits.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;

use dz_common::deployed::{Deployed, Release};
use dz_common::entry::Identity;
use dz_common::map::{SessionEntry, SessionKey};
use dz_common::pacing::Tick;
use dz_common::packet::{Packet, State};
use dz_common::session::{Receipt, Session};

use super::config::{Rules, UdpPeerConfig};

/// A session's state machine.
#[derive(Debug)]
pub(super) enum Machine {
    /// The kernel programs', built for the host.
    Ours(SessionEntry),
    /// The deployed client's.
    Deployed(Deployed),
}

impl Machine {
    /// A session in Down between two addresses.
    pub(super) fn new(config: &UdpPeerConfig, discr: u32, peer: Ipv4Addr, now_ns: u64) -> Self {
        let release = match config.rules {
            Rules::Ours => {
                let session = Session::new(config.timers, discr, now_ns);
                return Self::Ours(entry(session, config.local, peer));
            }
            Rules::Deployed => Release::Since0_32,
            Rules::DeployedBefore0_32 => Release::Before0_32,
        };
        Self::Deployed(Deployed::new(config.timers, discr, release, now_ns))
    }

    pub(super) const fn session(&self) -> &Session {
        match self {
            Self::Ours(entry) => &entry.session,
            Self::Deployed(deployed) => &deployed.session,
        }
    }

    const fn session_mut(&mut self) -> &mut Session {
        match self {
            Self::Ours(entry) => &mut entry.session,
            Self::Deployed(deployed) => &mut deployed.session,
        }
    }

    /// Takes a packet. Returns whether the rules believed it, and the answer: ours answer as the
    /// kernel programs do, a deployed client transmits on its own clock only.
    pub(super) fn receive(
        &mut self,
        packet: &Packet,
        config: &UdpPeerConfig,
        now_ns: u64,
    ) -> (bool, Option<Packet>) {
        match self {
            Self::Ours(entry) => {
                let taken = entry.take(packet, now_ns);
                let exit = entry.reply(taken.receipt, taken.changed, None, true, now_ns);
                let answer = entry.answer(exit, packet.my_discr, config.version);
                (taken.receipt.is_proven(), answer)
            }
            Self::Deployed(deployed) => {
                let receipt = deployed.receive(packet, now_ns);
                let ignored = matches!(receipt, Receipt::AdminDown | Receipt::WrongDiscriminator);
                (!ignored, None)
            }
        }
    }

    pub(super) fn expire(&mut self, now_ns: u64) {
        match self {
            Self::Ours(entry) => {
                entry.expire(now_ns);
            }
            Self::Deployed(deployed) => {
                deployed.expire(now_ns);
            }
        }
    }

    /// Transmits if it is due.
    pub(super) fn tick(&mut self, config: &UdpPeerConfig, now_ns: u64) -> Option<Packet> {
        match self {
            Self::Ours(entry) => {
                let random = entry.draw();
                let (decision, _) = entry.session.tick(now_ns, random);
                (decision == Tick::Send).then(|| entry.session.packet(config.version))
            }
            Self::Deployed(deployed) => deployed.tick(now_ns, config.version, random()),
        }
    }

    /// When to ask [`Machine::tick`] again.
    pub(super) fn due_ns(&self, now_ns: u64) -> u64 {
        match self {
            Self::Ours(entry) => entry.session.next_due_ns(now_ns),
            Self::Deployed(deployed) => deployed.session.next_tx_ns,
        }
    }

    /// Has the next packet go out now, as far as pacing allows.
    pub(super) const fn hurry(&mut self, now_ns: u64) {
        self.session_mut().next_tx_ns = now_ns;
    }

    /// Enters AdminDown, which a deployed client never does; it says so at once here.
    pub(super) fn admin_down(&mut self, now_ns: u64) {
        if self.session_mut().admin_down(now_ns) {
            self.hurry(now_ns);
        }
    }

    /// Leaves it.
    pub(super) fn admin_up(&mut self, now_ns: u64) {
        if self.session_mut().admin_up(now_ns) {
            self.hurry(now_ns);
        }
    }

    /// When to ask [`Machine::expire`] again.
    pub(super) const fn deadline_ns(&self) -> u64 {
        let session = self.session();
        match (session.state, session.detect_deadline_ns) {
            (State::Init | State::Up, deadline_ns) if deadline_ns != 0 => deadline_ns,
            _ => u64::MAX,
        }
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
pub(super) fn random() -> u32 {
    (RandomState::new().hash_one(()) as u32).max(1)
}
