//! The settings that the kernel part is loaded with.

use std::path::PathBuf;

use dz_common::gate::Action;
use dz_common::map::{ABI_VERSION, Config};
use dz_common::packet::Version;

/// The settings that the kernel part is loaded with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder that maps and links are pinned in.
    pub pin_dir: PathBuf,
    /// The folder that the types of the maps are kept in, for later versions.
    pub state_dir: PathBuf,
    /// UDP port.
    pub port: u16,
    /// Packets of unknown peers go on to the stack.
    pub unknown_pass: bool,
    /// Most sessions.
    pub max_sessions: u32,
    /// How long answering goes on without a heartbeat, ns.
    pub grace_ns: u64,
    /// The gate's action on packets for a peer that was Up and is not.
    pub when_down: Action,
    /// The gate's action on packets for a peer that was never Up.
    pub when_never_up: Action,
    /// Time to live of what we make.
    pub ttl: u8,
    /// Type of service of what we make.
    pub tos: u8,
    /// A peer's passive bit does not make the session passive.
    pub ignore_peer_passive: bool,
    /// Protocol numbers that routes of ours may have, as [`Config::route_protocols`].
    pub route_protocols: [u8; 4],
}

impl Settings {
    /// Returns these settings with the protocol numbers of an earlier agent's routes behind our own.
    #[must_use]
    pub(super) fn after(&self, earlier: Option<&Config>) -> Self {
        let mut settings = self.clone();
        let [own, ..] = self.route_protocols;
        let theirs = earlier.map_or([0; 4], |earlier| earlier.route_protocols);
        let [_, behind @ ..] = &mut settings.route_protocols;
        let theirs = theirs
            .into_iter()
            .filter(|number| ![0, own].contains(number));
        for (place, number) in behind.iter_mut().zip(theirs) {
            *place = number;
        }
        settings
    }

    /// Makes the configuration for the map. `groups`: how many groups of deadlines there are.
    pub(crate) fn config(&self, groups: u32) -> Config {
        Config {
            abi_version: ABI_VERSION,
            port: self.port,
            unknown_pass: u8::from(self.unknown_pass),
            ignore_peer_passive: u8::from(self.ignore_peer_passive),
            version: our_version(),
            groups,
            grace_ns: self.grace_ns,
            when_down: self.when_down,
            when_never_up: self.when_never_up,
            ttl: self.ttl,
            tos: self.tos,
            route_protocols: self.route_protocols,
        }
    }
}

/// Channel "other": a number of ours with a stable channel would be a deployed client's of long ago
/// on the dashboards of the network.
const CHANNEL_OTHER: u8 = 5;

/// Returns the version that our packets announce.
fn our_version() -> Version {
    let number = |text: &str| text.parse().unwrap_or(0);
    Version::new([
        number(env!("CARGO_PKG_VERSION_MAJOR")),
        number(env!("CARGO_PKG_VERSION_MINOR")),
        number(env!("CARGO_PKG_VERSION_PATCH")),
        CHANNEL_OTHER,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_earlier_routes_are_remembered_once() {
        let settings = Settings {
            pin_dir: PathBuf::new(),
            state_dir: PathBuf::new(),
            port: 44_880,
            unknown_pass: false,
            max_sessions: 1,
            grace_ns: 0,
            when_down: Action::Pass,
            when_never_up: Action::Pass,
            ttl: 64,
            tos: 0,
            ignore_peer_passive: false,
            route_protocols: [0; 4],
        };
        for (own, earlier, together) in [
            (144, None, [144, 0, 0, 0]),
            (144, Some([144, 0, 0, 0]), [144, 0, 0, 0]),
            (150, Some([144, 0, 0, 0]), [150, 144, 0, 0]),
            (144, Some([150, 144, 7, 0]), [144, 150, 7, 0]),
            (9, Some([150, 144, 7, 8]), [9, 150, 144, 7]),
        ] {
            let settings = Settings {
                route_protocols: [own, 0, 0, 0],
                ..settings.clone()
            };
            let earlier = earlier.map(|route_protocols| Config {
                route_protocols,
                ..settings.config(1)
            });
            let after = settings.after(earlier.as_ref());
            assert_eq!(after.route_protocols, together);
        }
    }
}
