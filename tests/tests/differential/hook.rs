//! The programs, and the circumstances in which they see a frame.

use std::fmt;

use dz_common::ingress::Link;

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hook {
    /// `dz_tc_eth`.
    TcEthernet,
    /// `dz_tc_eth`, of a frame whose VLAN tag the driver has put beside it.
    TcTagged,
    /// `dz_tc_l3`.
    TcLayer3,
    /// `dz_tc_l3`, of a packet that is not for this host.
    TcLayer3NotHost,
    /// `dz_xdp`.
    Xdp,
}

impl Hook {
    pub(crate) const ALL: [Self; 5] = [
        Self::TcEthernet,
        Self::TcTagged,
        Self::TcLayer3,
        Self::TcLayer3NotHost,
        Self::Xdp,
    ];

    /// Chosen out of a hundred.
    pub(crate) const fn from_percent(percent: u64) -> Self {
        match percent {
            0..=1 => Self::TcTagged,
            2..=3 => Self::TcLayer3NotHost,
            4..=35 => Self::TcEthernet,
            36..=67 => Self::TcLayer3,
            _ => Self::Xdp,
        }
    }

    pub(crate) const fn link(self) -> Link {
        match self {
            Self::TcEthernet | Self::TcTagged | Self::Xdp => Link::Ethernet,
            Self::TcLayer3 | Self::TcLayer3NotHost => Link::Layer3,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcEthernet => "tc-eth",
            Self::TcTagged => "tc-tagged",
            Self::TcLayer3 => "tc-l3",
            Self::TcLayer3NotHost => "l3-not-host",
            Self::Xdp => "xdp",
        })
    }
}
