//! Why a peer has no session.

use std::net::Ipv4Addr;

use crate::reason::Parked;
use crate::view::InterfaceView;

/// Says why a peer has no session, as a reason and in words. `room`: there is room for one more session.
pub(super) fn why_parked(
    interfaces: &[InterfaceView],
    name: &str,
    local: Ipv4Addr,
    room: bool,
) -> (Parked, String) {
    let Some(interface) = interfaces.iter().find(|i| i.name == name) else {
        let text = format!("{name} is not served by this agent");
        return (Parked::NotServed, text);
    };
    if let Some(why) = interface.parks {
        let waiting = interface.waiting.as_deref().unwrap_or("is not served");
        return (why, format!("{name} {waiting}"));
    }
    if local.is_unspecified() {
        let text = format!(
            "{name} has no address to speak from, or several: name one of this host's (`local ADDRESS`)"
        );
        return (Parked::AddressUnclear, text);
    }
    if !interface.locals.contains(&local) && !interface.borrowed.contains(&local) {
        let text = format!("{local} is not an address of this host");
        return (Parked::AddressMissing, text);
    }
    if room {
        (Parked::Opening, "session is being opened".to_owned())
    } else {
        let text = "no room for its session: raise --max-sessions";
        (Parked::NoRoom, text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, LOCAL};

    #[test]
    fn why_a_peer_is_parked() {
        let interface = fixture::snapshot().interfaces.remove(0);
        let unfit = |why: Parked, waiting: &str| InterfaceView {
            parks: Some(why),
            waiting: Some(waiting.to_owned()),
            ..interface.clone()
        };
        let other = Ipv4Addr::new(10, 9, 9, 9);
        for (interface, local, room, why, text) in [
            (
                unfit(Parked::InterfaceMissing, "is gone"),
                LOCAL,
                true,
                Parked::InterfaceMissing,
                "doublezero0 is gone",
            ),
            (
                interface.clone(),
                other,
                true,
                Parked::AddressMissing,
                "10.9.9.9 is not an address of this host",
            ),
            (
                interface.clone(),
                Ipv4Addr::UNSPECIFIED,
                true,
                Parked::AddressUnclear,
                "doublezero0 has no address to speak from, or several: name one of this host's (`local ADDRESS`)",
            ),
            (
                interface.clone(),
                LOCAL,
                true,
                Parked::Opening,
                "session is being opened",
            ),
            (
                interface.clone(),
                LOCAL,
                false,
                Parked::NoRoom,
                "no room for its session: raise --max-sessions",
            ),
        ] {
            let found = why_parked(&[interface], "doublezero0", local, room);
            assert_eq!(found, (why, text.to_owned()));
        }
        let (why, text) = why_parked(&[interface], "doublezero1", LOCAL, true);
        assert_eq!(why, Parked::NotServed);
        assert!(text.starts_with("doublezero1 is not served"), "{text}");
    }
}
