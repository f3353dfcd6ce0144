//! What lies beside a served interface that is Ethernet, and its frames.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// Length of an Ethernet header.
pub(super) const HEADER_LEN: usize = 14;
/// The type of frames with IPv4 packets.
const IPV4: [u8; 2] = [8, 0];

/// What a machine with an Ethernet interface is remembered by.
#[derive(Default)]
pub(super) struct Beside {
    /// Its own Ethernet address.
    pub(super) mac: Mac,
    /// Since when it has that, ns.
    pub(super) mac_ns: u64,
    /// Since when its neighbours are as they are, ns.
    pub(super) since_ns: BTreeMap<Ipv4Addr, u64>,
}

impl Beside {
    pub(super) fn new(mac: Mac) -> Self {
        Self {
            mac,
            ..Self::default()
        }
    }
}

/// Returns the Ethernet addresses of a frame: where it goes, and where it comes from.
pub(super) fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    let (to, from) = (frame.get(..6)?, frame.get(6..12)?);
    Some((to.try_into().ok()?, from.try_into().ok()?))
}

/// Makes a frame of a packet.
pub(super) fn frame((to, from): (Mac, Mac), packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &IPV4, packet].concat()
}
