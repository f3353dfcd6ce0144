//! A snapshot for unit tests of what is shown.

use std::net::Ipv4Addr;
use std::time::{Duration, UNIX_EPOCH};

use dz_common::counters::Counters;
use dz_common::entry::Identity;
use dz_common::map::{Event, Origin, SessionEntry, SessionKey};
use dz_common::packet::{State, Version};
use dz_common::session::{DownReason, Mode, Session, Timers};

use crate::settings::MetricsListen;
use crate::view::{
    AgentView, BlockView, Detour, FollowChanges, Inspect, InterfaceView, MetricsView, Parked,
    ParkedView, PassedOver, PortGuardView, ProgramView, RouteState, RouteTotals, SessionView,
    Snapshot,
};

/// Now, in the snapshots below.
pub(crate) const NOW_NS: u64 = 100_000_000_000;
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

const FOLLOWED: RouteState = RouteState::Followed {
    protocol: 12,
    table: 254,
    metric: 32,
};

/// Shows always the same.
#[derive(Clone, Debug)]
pub(crate) struct Fixed(pub(crate) Snapshot);

impl Inspect for Fixed {
    async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        Ok(self.0.clone())
    }
}

pub(crate) fn entry(peer: [u8; 4]) -> SessionEntry {
    SessionEntry::new(
        Identity {
            key: SessionKey {
                ifindex: 7,
                local: LOCAL.octets(),
                peer,
            },
            slot: 0,
            generation: 1,
            block: 1,
            seed: 1,
        },
        Session::new(Timers::DEFAULT, 0x1234, NOW_NS - 5_000_000_000),
    )
}

/// A session with the peer 10.0.0.`peer` has gone down.
pub(crate) fn event(peer: u8) -> Event {
    Event {
        key: entry([10, 0, 0, peer]).key,
        from: State::Up,
        to: State::Down,
        reason: DownReason::Timeout,
        generation: 1,
        at_ns: NOW_NS,
        since_ns: NOW_NS,
        sequence: 1,
        reserved: 0,
    }
}

/// Up for 60 s, last packet 250 ms ago.
pub(crate) fn up(peer: [u8; 4]) -> SessionEntry {
    let mut entry = entry(peer);
    entry.received = 1_000;
    entry.answered = 900;
    entry.originated = 90;
    entry.last_seen_ns = NOW_NS - 250_000_000;
    let session = &mut entry.session;
    session.state = State::Up;
    session.since_ns = NOW_NS - 60_000_000_000;
    session.last_rx_ns = entry.last_seen_ns;
    session.detect_deadline_ns = session.last_rx_ns + 3_000_000_000;
    session.peer_mode = Mode::Passive;
    session.peer_version = Version::new([0, 7, 1, 5]);
    session.last_down_reason = DownReason::Timeout;
    entry
}

fn view(entry: SessionEntry, route: RouteState) -> SessionView {
    SessionView {
        interface: "doublezero0".into(),
        entry,
        origin: Some(match route {
            RouteState::Foreign { .. } => Origin::Config,
            RouteState::Followed { .. } => Origin::Follow,
            _ => Origin::Api,
        }),
        via: None,
        detour: match route {
            RouteState::Present { .. } => Detour::Interface("eth0".into()),
            _ => Detour::None,
        },
        route,
        ignore_peer_passive: false,
        left: false,
        held: None,
        route_error: None,
    }
}

/// A peer without a session.
pub(crate) fn parked() -> ParkedView {
    ParkedView {
        interface: "doublezero0".to_owned(),
        local: LOCAL,
        peer: Ipv4Addr::new(10, 0, 0, 5),
        origin: Origin::Config,
        why: Parked::InterfaceDown,
        reason: "doublezero0 is down: bring it up".to_owned(),
    }
}

/// One session Up with its route, one that was never Up, and some of everything else.
pub(crate) fn snapshot() -> Snapshot {
    let present = RouteState::Present {
        via: None,
        src: Some(LOCAL),
    };
    let block = Counters {
        rx_answered: 900,
        rx_paced: 90,
        tx_originated: 95,
        drop_short: 3,
        drop_wrong_discriminator: 2,
        drop_unknown_peer: 4,
        down_to_init: 2,
        init_to_up: 2,
        up_to_down_timeout: 1,
        up_to_down_remote_down: 1,
        up_to_down_remote_admin: 1,
        event_emitted: 7,
        ..Counters::default()
    };
    Snapshot {
        taken_at_ns: NOW_NS,
        interfaces: vec![InterfaceView {
            borrowed: Vec::new(),
            name: "doublezero0".to_owned(),
            ifindex: Some(7),
            attach: Some("tc".to_owned()),
            tc: Some("tcx".to_owned()),
            attach_reason: Some("as asked for with --attach".to_owned()),
            programs: vec![
                ProgramView {
                    hook: "ingress",
                    before: 0,
                    missing: None,
                    mended: 1,
                },
                ProgramView {
                    hook: "gate",
                    before: 2,
                    missing: None,
                    mended: 0,
                },
            ],
            port_guard: Some(PortGuardView::Missing("UDP port 44880 is taken".to_owned())),
            locals: vec![LOCAL],
            waiting: None,
            parks: None,
        }],
        parked: vec![],
        sessions: vec![
            view(up([10, 0, 0, 2]), present),
            view(entry([10, 0, 0, 3]), RouteState::Foreign { protocol: 186 }),
            view(entry([10, 0, 0, 4]), FOLLOWED),
        ],
        passed_over: vec![(PassedOver::NoRoom, 2), (PassedOver::Excluded, 0)],
        blocks: vec![
            BlockView {
                interface: None,
                local: None,
                counters: Counters {
                    pass_not_udp: 11,
                    scan_done: 12,
                    ..Counters::default()
                },
            },
            BlockView {
                interface: Some("doublezero0".to_owned()),
                local: Some(LOCAL),
                counters: block,
            },
        ],
        routes: vec![RouteTotals {
            interface: "doublezero0".to_owned(),
            local: LOCAL,
            installs: 2,
            withdraws: 1,
            install_failures: 0,
            uninstall_failures: 0,
            repairs: 3,
            conflicts: 1,
            holds: 2,
            installed: 1,
        }],
        agent: AgentView {
            heartbeat_age_ns: 500_000_000,
            events_lost: 0,
            notification_overruns: 0,
            checks_failed: 0,
            log_lines_dropped: 0,
            full_check_ns: 2_500_000,
            follow_changes: FollowChanges {
                appeared: 5,
                changed: 1,
                disappeared: 4,
            },
            check_error: None,
            warnings: Vec::new(),
            started_at: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            metrics: MetricsView::At(MetricsListen::At(([127, 0, 0, 1], 44881).into())),
            pid: 42,
            port: 44880,
            max_sessions: 16_384,
        },
    }
}
