//! Attach modes.

use std::fmt;

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
