use super::*;
use crate::api::MissedJson;
use crate::fixture;
use crate::view::RouteState;

#[test]
fn sessions_line_up() {
    let text = sessions(&SessionsJson::from(&fixture::snapshot()), false);
    let expected = "\
INTERFACE    LOCAL     PEER      ORIGIN  STATE  SINCE  LAST DOWN  ROUTE                MODE            DETOUR  DETECT  RECEIVED  SENT  ANSWERED  LAST RECEIPT
doublezero0  10.0.0.1  10.0.0.2  api     up     1m00s  timeout    present              passive (peer)  eth0      3.0s      1000   990       900     250ms ago
doublezero0  10.0.0.1  10.0.0.3  config  down    5.0s  -          foreign (proto 186)  active          -         3.0s         0     0         0         never
doublezero0  10.0.0.1  10.0.0.4  follow  down    5.0s  -          bird metric 32       active          -         3.0s         0     0         0         never
routes that stay when their session goes down: 1 (the route is another daemon's, only the gate acts: --when-down), \
1 (somebody else's route is in the place of ours, only the gate acts: remove it, or --follow it), \
1 (the peer says that it is passive: --peer-passive ignore changes that)
followed routes without a session: 2 (no room: raise --max-sessions)
";
    assert_eq!(text, expected);
}

#[test]
fn an_unknown_route_is_shown_with_the_reason() {
    let mut snapshot = fixture::snapshot();
    let reason = "reading our routes: no answer";
    for session in &mut snapshot.sessions[..2] {
        session.route = RouteState::Unknown {
            reason: reason.into(),
        };
    }
    let shown = SessionsJson::from(&snapshot);
    let json = serde_json::to_value(&shown.sessions[0].route).unwrap();
    let expected = serde_json::json!({"state": "unknown", "reason": reason});
    assert_eq!(json, expected);
    let text = sessions(&shown, false);
    let line = format!("\nroutes not known: 2 ({reason})\n");
    assert!(text.contains(&line), "{text}");
}

#[test]
fn peers_that_have_left_are_counted_and_listed_last() {
    let mut snapshot = fixture::snapshot();
    snapshot.sessions[0].left = true;
    let shown = SessionsJson::from(&snapshot);
    let text = sessions(&shown, false);
    assert!(!text.contains("10.0.0.2"), "{text}");
    assert!(text.contains("peers that have left: 1 ("), "{text}");
    let all = sessions(&shown, true);
    let peers: Vec<_> = all.lines().skip(1).take(3).collect();
    let at = |address| peers.iter().position(|line| line.contains(address));
    let order = ["10.0.0.3", "10.0.0.4", "10.0.0.2"].map(at);
    assert_eq!(order, [Some(0), Some(1), Some(2)], "{all}");
    // A table without rows is none.
    for session in &mut snapshot.sessions {
        session.left = true;
    }
    let text = sessions(&SessionsJson::from(&snapshot), false);
    assert!(!text.contains("INTERFACE"), "{text}");
    assert!(!text.contains("no sessions"), "{text}");
}

#[test]
fn the_status_says_what_is_not_served() {
    let mut snapshot = fixture::snapshot();
    snapshot.parked.push(fixture::parked());
    let text = status(&StatusJson::from(&snapshot));
    for line in [
        "1 (the peer says that it is passive: --peer-passive ignore changes that)\n",
        "followed routes without a session: 2 (no room: raise --max-sessions)\n",
        "peers without a session: 1 (interface is down)\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("have left"), "{text}");
}

#[test]
fn counters_show_what_counted() {
    let shown = CountersJson::from(&fixture::snapshot());
    let text = counters(&shown, false);
    assert_eq!(text.lines().count(), 1 + 2 + 12 + 4, "{text}");
    assert!(
        text.contains("-            -         pass_not_udp"),
        "{text}"
    );
    assert_eq!(
        counters(&shown, true).lines().count(),
        1 + 2 * Counter::COUNT + 6 + 4
    );
}

#[test]
fn nothing_is_said() {
    let none = CountersJson {
        blocks: Vec::new(),
        routes: Vec::new(),
        agent: MissedJson::default(),
    };
    assert_eq!(
        sessions(
            &SessionsJson {
                sessions: Vec::new(),
                parked: Vec::new(),
                inert: Default::default(),
            },
            false
        ),
        "no sessions\n"
    );
    assert_eq!(counters(&none, false), "nothing counted yet\n");
}

#[test]
fn a_parked_peer_is_shown_with_the_reason() {
    let parked = ParkedJson {
        interface: "doublezero0".to_owned(),
        local: [10, 0, 0, 1].into(),
        peer: [10, 0, 0, 2].into(),
        origin: "api".to_owned(),
        reason: "10.0.0.1 is not an address of doublezero0".to_owned(),
        reason_label: "address_missing".to_owned(),
    };
    let shown = SessionsJson {
        sessions: Vec::new(),
        parked: vec![parked],
        inert: Default::default(),
    };
    let text = sessions(&shown, false);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.ends_with("10.0.0.2  api     10.0.0.1 is not an address of doublezero0\n"),
        "{text}"
    );
}

#[test]
fn times_at_a_glance() {
    for (ms, text) in [
        (0, "0ms"),
        (999, "999ms"),
        (1_250, "1.2s"),
        (61_000, "1m01s"),
        (3_660_000, "1h01m"),
        (90_000_000, "1d01h"),
    ] {
        assert_eq!(time(Duration::from_millis(ms)), text);
    }
}
