//! What a peer is made of, and whose rules it follows.

use std::net::Ipv4Addr;

use dz_common::LIVENESS_PORT;
use dz_common::packet::Version;
use dz_common::session::Timers;

/// Whose rules the peer follows where ours differ on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Those of the kernel programs, which also answer what they receive.
    Ours,
    /// The deployed client's since its 0.32, which tells a new state at once: believes what echoes
    /// nothing, and holds on to a learned discriminator unless Up.
    Deployed,
    /// The same before 0.32: a new state waits until the back-off has passed.
    DeployedBefore0_32,
}

/// What a peer is made of.
#[derive(Clone, Debug)]
pub struct UdpPeerConfig {
    /// The address to receive at and send from.
    pub local: Ipv4Addr,
    /// Be a crowd, a peer at each of many addresses: sessions are known by their *own* address, which
    /// is what "the peer's address" means below, and all of them talk to this one. For `local` none.
    pub crowd: Option<Ipv4Addr>,
    /// Bind to this interface.
    pub device: Option<String>,
    /// UDP port at both ends.
    pub port: u16,
    /// How every session is configured.
    pub timers: Timers,
    /// Whose rules.
    pub rules: Rules,
    /// Discriminator of every session; random and different for each if none.
    pub local_discr: Option<u32>,
    /// Announced in packets.
    pub version: Version,
}

impl UdpPeerConfig {
    /// A deployed client: its rules, its clock, its defaults.
    #[must_use]
    pub fn new(local: Ipv4Addr) -> Self {
        Self {
            local,
            crowd: None,
            device: None,
            port: LIVENESS_PORT,
            timers: Timers {
                backoff_cap_us: 60_000_000,
                ..Timers::DEFAULT
            },
            rules: Rules::Deployed,
            local_discr: None,
            version: Version::new([0, 34, 0, 0]),
        }
    }
}
