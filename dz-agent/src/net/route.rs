//! One route of ours, a foreign one in its place, and how a change of either ends.

use std::fmt;
use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::error::NetlinkError;

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination, a /32.
    pub dst: Ipv4Addr,
    /// Index of the interface.
    pub ifindex: u32,
    /// Source address of what this host sends over it. Ours always have one; a route that somebody
    /// else made under our number may lack it, and one that uses a next hop object is read without: so it
    /// never is the one that is wanted.
    pub src: Option<Ipv4Addr>,
    /// Gateway, reached over the interface whatever its addresses are.
    pub via: Option<Ipv4Addr>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/32", self.dst)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev #{}", self.ifindex)?;
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        Ok(())
    }
}

/// A route that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its `rtm_protocol`.
    pub protocol: u8,
    /// Index of its interface, if it has exactly one.
    pub ifindex: Option<u32>,
    /// Its metric.
    pub metric: u32,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of protocol {}", self.protocol)?;
        if let Some(ifindex) = self.ifindex {
            write!(f, " dev #{ifindex}")?;
        }
        Ok(())
    }
}

/// The ways in which an addition succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// The kernel has added it.
    New,
    /// The table had the same route already.
    AlreadyThere,
    /// It took the place of a different one of ours.
    Replaced,
}

/// The ways in which a deletion succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The kernel has deleted it.
    Deleted,
    /// The table had no such route of ours.
    AlreadyGone,
}

/// Why the table could not be changed or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Somebody else has a route to the destination with the same metric.
    #[error(
        "adding route {route}: there is one {} already; remove it, or give it a metric above 0",
        beside(route, foreign)
    )]
    Conflict {
        /// The route that was to be added.
        route: Route,
        /// The one that is there. Under our own number it is on another interface: another
        /// agent's.
        foreign: Foreign,
    },
    /// The kernel refused, or could not be asked.
    #[error("{what}: {cause}{}", advice(cause))]
    Netlink {
        /// The change or reading that was asked for.
        what: String,
        /// Why it was not done.
        cause: NetlinkError,
    },
}

impl RouteError {
    pub(super) fn new(what: impl fmt::Display, cause: NetlinkError) -> Self {
        Self::Netlink {
            what: what.to_string(),
            cause,
        }
    }

    /// Returns somebody else's route that is in the way, if that is the reason.
    pub const fn conflict(&self) -> Option<&Foreign> {
        match self {
            Self::Conflict { foreign, .. } => Some(foreign),
            Self::Netlink { .. } => None,
        }
    }

    /// Returns the error number of the kernel's answer, if it refused.
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Conflict { .. } => Some(Errno::EEXIST),
            Self::Netlink { cause, .. } => cause.errno(),
        }
    }
}

/// Names a route that is in another one's way: by its interface only if that is another one.
fn beside(route: &Route, foreign: &Foreign) -> Foreign {
    Foreign {
        ifindex: foreign.ifindex.filter(|ifindex| *ifindex != route.ifindex),
        ..*foreign
    }
}

/// Advises on a refusal.
const fn advice(cause: &NetlinkError) -> &'static str {
    match cause.errno() {
        Some(Errno::EPERM) => "; run as root or with CAP_NET_ADMIN",
        Some(Errno::ENODEV) => "; the interface is gone",
        Some(Errno::ENETDOWN) => "; bring the interface up",
        Some(Errno::EINVAL) => {
            "; check that the source address is on this host and the gateway is not"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_an_interface_once() {
        let said = |ifindex| {
            let conflict = RouteError::Conflict {
                route: Route {
                    dst: [10, 0, 0, 2].into(),
                    ifindex: 3,
                    src: None,
                    via: None,
                },
                foreign: Foreign {
                    protocol: 186,
                    ifindex: Some(ifindex),
                    metric: 0,
                },
            };
            conflict.to_string()
        };
        assert_eq!(said(3).matches("dev #").count(), 1, "{}", said(3));
        assert!(said(4).contains("of protocol 186 dev #4 already"));
    }
}
