//! Where on an interface programs run, and how.

use std::fmt;

use aya::programs::TcAttachType;
use aya::programs::xdp::XdpMode;
use dz_common::ingress::Link;

use super::names::{XDP, gate_name, ingress_name};

/// How the programs are attached to an interface.
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
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Tc, Self::Xdp, Self::XdpGeneric];

    /// Whether an interface may have programs in both of two different modes: it has room for one of
    /// XDP, in whatever way, beside those of TC.
    pub(super) fn goes_with(self, other: Self) -> bool {
        self == Self::Tc || other == Self::Tc
    }
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

/// A place on an interface where a program of ours runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Where packets come in.
    Ingress(AttachMode),
    /// Where packets leave: the gate's, which is always TC's.
    Egress,
}

impl Hook {
    /// Name of the program that runs here, for frames of this kind.
    pub(super) const fn program(self, link: Link) -> &'static str {
        match self {
            Self::Ingress(AttachMode::Tc) => ingress_name(link),
            Self::Ingress(AttachMode::Xdp | AttachMode::XdpGeneric) => XDP,
            Self::Egress => gate_name(link),
        }
    }

    /// The same in TC's words.
    pub(super) const fn tc(self) -> TcAttachType {
        match self {
            Self::Ingress(_) => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    /// The same in XDP's words.
    pub(super) const fn xdp(self) -> XdpMode {
        match self {
            Self::Ingress(AttachMode::XdpGeneric) => XdpMode::Skb,
            Self::Ingress(_) | Self::Egress => XdpMode::Driver,
        }
    }
}
