//! A peer that a test plays, and what every session with one is configured with.

use std::net::Ipv4Addr;
use std::time::Duration;

/// The liveness port.
pub(crate) const PORT: u16 = 44880;
/// The address of every session.
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Every interval, the agent's and the peers': so long that neither a transmission of the agent's
/// clock (but for those that announce a new state) nor the end of a pacing interval falls into a
/// test.
pub(crate) const INTERVAL: Duration = Duration::from_secs(600);

/// A peer with a session, which has told us its discriminator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: Ipv4Addr,
    /// The agent's discriminator of the session.
    pub(crate) local_discr: u32,
    /// The agent's software version, as announced.
    pub(crate) software: [u8; 4],
}
