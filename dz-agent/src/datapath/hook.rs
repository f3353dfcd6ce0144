//! The hooks of an interface at which programs run, and the modes of attaching to them.

use std::fmt;

use aya::programs::TcAttachType;
use aya::programs::xdp::XdpMode;
use dz_common::ingress::Link;

use super::names::{XDP, gate_name, ingress_name};

/// The mode in which the ingress program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachMode {
    /// TC ingress.
    Tc,
    /// XDP in the driver.
    Xdp,
    /// XDP in the kernel's generic path.
    XdpGeneric,
}

impl AttachMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Tc, Self::Xdp, Self::XdpGeneric];
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
        })
    }
}

/// A hook of an interface where a program of ours runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// The hook of packets that come in.
    Ingress(AttachMode),
    /// The hook of packets that leave: the gate's, which is always TC's.
    Egress,
}

impl Hook {
    /// Returns the name of the program that runs here, for frames of this kind.
    pub(super) const fn program(self, link: Link) -> &'static str {
        match self {
            Self::Ingress(AttachMode::Tc) => ingress_name(link),
            Self::Ingress(AttachMode::Xdp | AttachMode::XdpGeneric) => XDP,
            Self::Egress => gate_name(link),
        }
    }

    /// Says whether it is one of XDP's.
    pub(super) const fn is_xdp(self) -> bool {
        matches!(
            self,
            Self::Ingress(AttachMode::Xdp | AttachMode::XdpGeneric)
        )
    }

    /// Returns its name for people and metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Ingress(_) => "ingress",
            Self::Egress => "gate",
        }
    }

    /// Returns aya's name of the hook in TC.
    pub(super) const fn tc(self) -> TcAttachType {
        match self {
            Self::Ingress(_) => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    /// Returns aya's name of the mode in XDP.
    pub(super) const fn xdp(self) -> XdpMode {
        match self {
            Self::Ingress(AttachMode::XdpGeneric) => XdpMode::Skb,
            Self::Ingress(_) | Self::Egress => XdpMode::Driver,
        }
    }
}
