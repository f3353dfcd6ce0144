//! Closed sets of reasons why a peer or a route is not served as its owner may expect. Each reason has
//! one label, for metrics and JSON, and one text, for people; both are here and nowhere else.

use dz_common::gate::is_passive;
use dz_common::map::Origin;
use dz_common::session::Mode;

/// A closed set of reasons.
pub trait Reason: Copy + PartialEq + 'static {
    /// Every reason of the set.
    const ALL: &'static [Self];

    /// Returns its label in JSON and metrics.
    fn label(self) -> &'static str;

    /// Says it to people, in a clause.
    fn text(self) -> &'static str;
}

/// Counts how often each reason occurs; those that do not occur are there with 0.
pub fn count<R: Reason>(found: impl IntoIterator<Item = R>) -> Vec<(R, u64)> {
    let mut counts: Vec<_> = R::ALL.iter().map(|reason| (*reason, 0)).collect();
    for reason in found {
        for (_, count) in counts.iter_mut().filter(|(known, _)| *known == reason) {
            *count += 1;
        }
    }
    counts
}

/// Returns the text for a label; the label itself if an agent of another version has said it.
pub fn text_of<R: Reason>(label: &str) -> &str {
    let known = R::ALL.iter().find(|reason| reason.label() == label);
    known.map_or(label, |reason| reason.text())
}

/// Defines a set of reasons from a table of variants, labels and texts.
macro_rules! reasons {
    ($(#[$about:meta])* $set:ident {
        $($(#[$doc:meta])* $reason:ident: $label:literal, $text:literal;)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $set {
            $($(#[$doc])* $reason,)+
        }

        impl Reason for $set {
            const ALL: &'static [Self] = &[$(Self::$reason),+];

            fn label(self) -> &'static str {
                match self {
                    $(Self::$reason => $label,)+
                }
            }

            fn text(self) -> &'static str {
                match self {
                    $(Self::$reason => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// Why a peer's route stays when its session goes down. Of several reasons the first counts.
    Untouched {
        /// We are passive towards the peer.
        OwnPassive: "own_passive",
            "our own mode is passive: \"active\" in its override, or no \"passive\" in its line, changes that";
        /// The peer says that it is passive, and that is honoured.
        PeerPassive: "peer_passive",
            "the peer says that it is passive: --peer-passive ignore changes that";
        /// It is a followed route: another daemon's.
        Followed: "followed",
            "the route is another daemon's, only the gate acts: --when-down";
        /// Somebody else's route is in the place of ours.
        Foreign: "foreign",
            "somebody else's route is in the place of ours, only the gate acts: remove it, or --follow it";
    }
}

impl Untouched {
    /// Decides whether a session's route stays when the session goes down, and why. `foreign`:
    /// somebody else's route is in the place of ours.
    pub fn of(
        own: Mode,
        peer: Mode,
        ignore_peer_passive: bool,
        origin: Option<Origin>,
        foreign: bool,
    ) -> Option<Self> {
        if own == Mode::Passive {
            Some(Self::OwnPassive)
        } else if is_passive(own, peer, ignore_peer_passive) {
            Some(Self::PeerPassive)
        } else if origin == Some(Origin::Follow) {
            Some(Self::Followed)
        } else {
            foreign.then_some(Self::Foreign)
        }
    }
}

reasons! {
    /// Why a session is held: while Up it does not count as Up, has no route of ours, and the gate acts as if it
    /// were down.
    Held {
        /// It went Down too often.
        Flapping: "flapping", "it went down more than 5 times within 30 s: --damping off changes that";
        /// Others deleted or changed its route too often.
        RouteTaken: "route_taken",
            "others deleted or changed its route more than 20 times within 30 s: --damping off changes that";
        /// An earlier agent held it.
        TakenOver: "taken_over", "it was held before the agent was restarted";
        /// It has just come Up.
        HoldUp: "hold_up", "it has not been up for long enough: --hold-up";
    }
}

reasons! {
    /// Why a peer has no session at present.
    Parked {
        /// No interface of this agent has the name.
        NotServed: "not_served", "interface not served by this agent";
        /// The interface does not exist.
        InterfaceMissing: "interface_missing", "interface does not exist";
        /// The interface exists and cannot be served.
        InterfaceUnfit: "interface_unfit", "interface cannot be served";
        /// The interface is down.
        InterfaceDown: "interface_down", "interface is down";
        /// The local address is not this host's.
        AddressMissing: "address_missing", "local address is not this host's";
        /// Nobody has named the local address, and it is not clear which is meant.
        AddressUnclear: "address_unclear", "local address is not named";
        /// The peer's address cannot be a peer's: this host has it itself, or its tunnel ends there.
        NoPeer: "no_peer", "not the address of a peer";
        /// There are as many sessions as there may be, those that are being closed included.
        NoRoom: "no_room", "no room: raise --max-sessions";
        /// Nothing stands against it.
        Opening: "opening", "session is being opened";
    }
}

reasons! {
    /// Why a route that meets the conditions of `--follow` makes no peer.
    PassedOver {
        /// There are `--max-sessions` peers.
        NoRoom: "no_room", "no room: raise --max-sessions";
        /// Its destination is excluded.
        Excluded: "excluded", "destination is excluded";
        /// It names no source address, and its interface has none for it.
        NoSource: "no_source",
            "neither route nor interface has an address of ours for it";
        /// It leads to more than one address.
        ShorterPrefix: "shorter_prefix", "prefix shorter than /32";
        /// It is a broadcast, multicast, local route or the like.
        NotUnicast: "not_unicast", "not unicast";
        /// It has several next hops (ECMP).
        SeveralNextHops: "several_next_hops", "several next hops";
        /// It only names a next hop object (`RTA_NH_ID`), as where `net.ipv4.nexthop_compat_mode` is 0.
        NextHopObject: "next_hop_object",
            "only a next hop object is named: net.ipv4.nexthop_compat_mode=1 has the kernel say what it is";
        /// Its packets get labels, a tunnel or an IPv6 gateway, which our own would not get.
        NotPlainIpv4: "not_plain_ipv4",
            "labels, a tunnel or an IPv6 gateway on the way";
        /// It is for one type of service.
        Tos: "tos", "for one type of service only";
        /// Its destination cannot be a peer's: multicast, broadcast, loopback.
        NotAHost: "not_a_host", "destination is not a host's address";
        /// Its destination is this host's, the tunnel's remote end or the like.
        NoPeer: "no_peer",
            "destination is an address of this host, of the tunnel's far end or of its network";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn labels_are_fit_and_unique<R: Reason>() {
        let labels: BTreeSet<_> = R::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), R::ALL.len());
        for reason in R::ALL {
            let fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(reason.label().chars().all(fit), "{}", reason.label());
            assert_eq!(text_of::<R>(reason.label()), reason.text());
        }
    }

    #[test]
    fn every_set_has_fit_labels() {
        labels_are_fit_and_unique::<Untouched>();
        labels_are_fit_and_unique::<Held>();
        labels_are_fit_and_unique::<Parked>();
        labels_are_fit_and_unique::<PassedOver>();
        assert_eq!(
            text_of::<Parked>("of_a_later_version"),
            "of_a_later_version"
        );
    }

    #[test]
    fn what_does_not_occur_is_counted_too() {
        let counts = count([
            Untouched::Followed,
            Untouched::OwnPassive,
            Untouched::Followed,
        ]);
        let expected = [
            (Untouched::OwnPassive, 1),
            (Untouched::PeerPassive, 0),
            (Untouched::Followed, 2),
            (Untouched::Foreign, 0),
        ];
        assert_eq!(counts, expected);
    }

    #[test]
    fn whose_doing_it_is_that_a_route_stays() {
        use Mode::{Active, Passive, Unknown};
        let follow = Some(Origin::Follow);
        for (own, peer, ignore, origin, why) in [
            (Active, Active, false, Some(Origin::Api), None),
            (Active, Unknown, false, None, None),
            (Active, Passive, false, None, Some(Untouched::PeerPassive)),
            (Active, Passive, true, None, None),
            (Passive, Passive, true, None, Some(Untouched::OwnPassive)),
            (Active, Passive, true, follow, Some(Untouched::Followed)),
            (Active, Passive, false, follow, Some(Untouched::PeerPassive)),
            (Passive, Active, false, follow, Some(Untouched::OwnPassive)),
        ] {
            let found = Untouched::of(own, peer, ignore, origin, false);
            assert_eq!(found, why, "{own:?} {peer:?} {ignore} {origin:?}");
            let foreign = Untouched::of(own, peer, ignore, origin, true);
            let why = why.or(Some(Untouched::Foreign));
            assert_eq!(foreign, why, "{own:?} {peer:?} {ignore} {origin:?}");
        }
    }
}
