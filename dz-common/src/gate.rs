//! The gate decides whether a packet that is about to leave for a peer's address may. The session
//! entry alone decides, so that one store switches answering and forwarding together.

use crate::checksum::IPPROTO_UDP;
use crate::counters::Counter;
use crate::headers::{ETHERNET_LEN, ETHERTYPE_IPV4, IPV4_LEN, UDP_LEN};
use crate::ingress::{Frame, Link};
pub use crate::map::Action;
use crate::map::{Config, SessionEntry};
use crate::packet::State;
use crate::session::Mode;
use crate::unaligned::{be16, word};

/// The facts about a session that the gate decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its state.
    pub state: State,
    /// Whether it is held, and so does not count as Up.
    pub held: bool,
    /// How often it came Up.
    pub ups: u32,
    /// Whether routes and traffic are left alone, see [`is_passive`].
    pub passive: bool,
}

impl Facts {
    /// Takes the facts from a session.
    pub const fn of(entry: &SessionEntry, ignore_peer_passive: bool) -> Self {
        let session = &entry.session;
        Self {
            state: session.state,
            held: entry.is_held(),
            ups: session.ups,
            passive: is_passive(session.timers.mode, session.peer_mode, ignore_peer_passive),
        }
    }

    /// Decides about a packet; the counter says why a packet that passes does.
    #[inline(always)]
    pub const fn verdict(&self, config: &Config) -> (Action, Counter) {
        let is_up = matches!(self.state, State::Up);
        if is_up && !self.held {
            return (Action::Pass, Counter::GateUp);
        }
        if self.passive {
            return (Action::Pass, Counter::GatePassive);
        }
        // A session that is held at its first Up has not counted yet, and moves nobody's traffic before it has.
        let (action, passed) = if self.ups > is_up as u32 {
            (config.when_down, Counter::GateDownPassed)
        } else {
            (config.when_never_up, Counter::GateNeverUpPassed)
        };
        match action {
            Action::Pass => (action, passed),
            Action::Drop => (action, Counter::GateDropped),
            Action::Reroute => (action, Counter::GateRerouted),
        }
    }
}

/// Returns whether a session is passive in effect: if we are, or if the peer says that it is and that is
/// honoured.
#[inline(always)]
pub const fn is_passive(own: Mode, peer: Mode, ignore_peer: bool) -> bool {
    matches!(own, Mode::Passive) || (!ignore_peer && matches!(peer, Mode::Passive))
}

/// MF flag and fragment offset of the IPv4 header.
const FRAGMENT_MASK: u16 = 0x3fff;
/// Version 4, header of 20 bytes.
const PLAIN_HEADER: u8 = 0x45;

/// Bytes from the start of a frame to the end of all that the gate may want to read.
#[inline(always)]
pub const fn wanted_len(link: Link) -> usize {
    link.ip_offset() + IPV4_LEN + UDP_LEN
}

/// Source and destination address of a packet that leaves; none if it is not IPv4, or too short to
/// have them.
#[inline(always)]
pub fn addresses<F: Frame + ?Sized>(frame: &F, link: Link) -> Option<([u8; 4], [u8; 4])> {
    if let Link::Ethernet = link {
        let ethertype = frame.read::<2>(ETHERNET_LEN - 2)?;
        if be16(ethertype) != ETHERTYPE_IPV4 {
            return None;
        }
    }
    let header = frame.read::<IPV4_LEN>(link.ip_offset())?;
    if header[0] >> 4 != 4 {
        return None;
    }
    let (src, dst) = (word::<3, _>(header), word::<4, _>(header));
    Some((src.to_ne_bytes(), dst.to_ne_bytes()))
}

/// Length of a packet that has [`addresses`], in its own words; 0 says that it is larger than these can.
#[inline(always)]
pub fn total_len<F: Frame + ?Sized>(frame: &F, link: Link) -> u32 {
    let header = frame.read::<IPV4_LEN>(link.ip_offset());
    header.map_or(0, |header| {
        let [_, _, length @ ..] = word::<0, _>(header).to_ne_bytes();
        u16::from_be_bytes(length) as u32
    })
}

/// Whether a packet that leaves is a liveness packet: UDP to `port` (host order), not a fragment,
/// without IPv4 options, as everybody's are.
#[inline(always)]
pub fn is_liveness<F: Frame + ?Sized>(frame: &F, link: Link, port: u16) -> bool {
    let at = link.ip_offset();
    let Some(header) = frame.read::<IPV4_LEN>(at) else {
        return false;
    };
    let [_, _, fragment @ ..] = word::<1, _>(header).to_ne_bytes();
    let whole = u16::from_be_bytes(fragment) & FRAGMENT_MASK == 0;
    if header[0] != PLAIN_HEADER || header[9] != IPPROTO_UDP || !whole {
        return false;
    }
    let destination_port = frame.read::<2>(at + IPV4_LEN + 2);
    destination_port.is_some_and(|bytes| be16(bytes) == port)
}
