//! Peers over loopback, whose whole /8 is local: no privilege needed.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use dz_common::packet::{Packet, State, Version};
use dz_common::session::{DownReason, Timers};

use super::{Rules, Snapshot, UdpPeer, UdpPeerConfig};
use crate::wait::eventually;

const DEADLINE: Duration = Duration::from_secs(30);
const FAST: Timers = Timers {
    desired_min_tx_us: 50_000,
    required_min_rx_us: 50_000,
    // Room for a loaded machine: a test must not flap because it was not scheduled.
    detect_mult: 60,
    backoff_cap_us: 200_000,
    ..Timers::DEFAULT
};

/// A port that nobody uses right now.
fn free_port(addr: Ipv4Addr) -> u16 {
    let socket = UdpSocket::bind((addr, 0)).unwrap();
    socket.local_addr().unwrap().port()
}

fn peer(local: Ipv4Addr, port: u16, rules: Rules) -> UdpPeer {
    let config = UdpPeerConfig {
        port,
        timers: FAST,
        rules,
        device: Some("lo".into()),
        ..UdpPeerConfig::new(local)
    };
    UdpPeer::spawn(config).unwrap()
}

struct Pair {
    addrs: [Ipv4Addr; 2],
    ends: [UdpPeer; 2],
}

impl Pair {
    /// `net` keeps tests that run side by side apart.
    fn new(net: u8, rules: [Rules; 2]) -> Self {
        let addrs = [2, 3].map(|host| Ipv4Addr::new(127, 0, net, host));
        let port = free_port(addrs[0]);
        let ends = [0, 1].map(|end| peer(addrs[end], port, rules[end]));
        ends[0].add_session(addrs[1]);
        ends[1].add_session(addrs[0]);
        Self { addrs, ends }
    }

    fn snapshot(&self, end: usize) -> Snapshot {
        self.ends[end].session(self.addrs[1 - end]).unwrap()
    }

    fn wait(&self, what: &str, seen: impl Fn([Snapshot; 2]) -> bool) {
        let look = || {
            let both = [0, 1].map(|end| self.snapshot(end));
            let shown = format!("{both:?}");
            if seen(both) { Ok(()) } else { Err(shown) }
        };
        eventually(DEADLINE, what, look).unwrap();
    }

    fn wait_up(&self) {
        self.wait("both Up", |both| {
            both.iter().all(|end| end.session.state == State::Up)
        });
    }
}

fn last_reason(end: &Snapshot) -> DownReason {
    end.changes
        .last()
        .map_or(DownReason::None, |change| change.reason)
}

#[test]
fn two_peers_come_up_and_one_says_goodbye() {
    let pair = Pair::new(0, [Rules::Deployed; 2]);
    pair.wait_up();
    pair.wait("some packets each way", |both| {
        both.iter()
            .all(|end| end.sent >= 10 && end.received >= 10 && end.send_errors == 0)
    });
    let states = pair
        .snapshot(0)
        .changes
        .iter()
        .map(|change| change.to)
        .collect::<Vec<_>>();
    assert!(
        [&[State::Up][..], &[State::Init, State::Up]].contains(&&states[..]),
        "{states:?}"
    );

    pair.ends[0].admin_down(pair.addrs[1]);
    pair.wait("remote_admin", |[_, far]| {
        last_reason(&far) == DownReason::RemoteAdmin
    });
    assert_eq!(pair.snapshot(0).session.state, State::AdminDown);
    pair.ends[0].admin_up(pair.addrs[1]);
    pair.wait_up();
}

#[test]
fn a_silent_peer_is_lost_and_comes_back() {
    let pair = Pair::new(1, [Rules::Deployed, Rules::Ours]);
    pair.wait_up();
    pair.ends[1].silence();
    pair.wait("both timed out", |both| {
        both.iter()
            .all(|end| last_reason(end) == DownReason::Timeout)
    });
    // What one end still had in its socket may count as its last receipt, not as a later one.
    let sent = pair.snapshot(1).sent;
    pair.wait("one end is talking to nobody", |[near, _]| {
        near.session.backoff > 1
    });
    assert_eq!(pair.snapshot(1).sent, sent, "silent");
    pair.ends[1].resume();
    pair.wait_up();
}

/// The deployed rules strand a restarted peer; ours on either end brings it back.
#[test]
fn a_restart_with_new_discriminators_strands_deployed_peers_only() {
    let both_deployed = Pair::new(2, [Rules::Deployed; 2]);
    both_deployed.wait_up();
    both_deployed.ends[1].restart_with_new_discriminators();
    both_deployed.wait("20 packets ignored", |[_, restarted]| {
        restarted.ignored >= 20
    });
    assert_ne!(both_deployed.snapshot(1).session.state, State::Up);

    for (net, rules) in [
        (3, [Rules::Ours, Rules::Deployed]),
        (4, [Rules::Deployed, Rules::Ours]),
        (7, [Rules::Ours, Rules::DeployedBefore0_32]),
        (8, [Rules::DeployedBefore0_32, Rules::Ours]),
        (9, [Rules::Ours; 2]),
    ] {
        let pair = Pair::new(net, rules);
        pair.wait_up();
        let old = pair.snapshot(1).session.local_discr;
        pair.ends[1].restart_with_new_discriminators();
        let new = pair.snapshot(1).session.local_discr;
        assert_ne!(new, old);
        pair.wait("both Up again", |[near, restarted]| {
            let up = |end: &Snapshot| end.session.state == State::Up;
            up(&restarted) && up(&near) && near.session.peer_discr == new
        });
        assert_eq!(pair.snapshot(1).session.local_discr, new, "none is adopted");
    }
}

/// The clock of one peer serves many sessions over one socket.
#[test]
fn one_peer_keeps_many_sessions() {
    let hub_addr = Ipv4Addr::new(127, 1, 0, 1);
    let port = free_port(hub_addr);
    let hub = peer(hub_addr, port, Rules::Ours);
    let spokes: Vec<_> = (1..=40)
        .map(|host| {
            let addr = Ipv4Addr::new(127, 1, 1, host);
            let spoke = peer(addr, port, Rules::Deployed);
            spoke.add_session(hub_addr);
            hub.add_session(addr);
            spoke
        })
        .collect();
    let all_up = || {
        let sessions = hub.sessions();
        let up = sessions
            .iter()
            .filter(|one| one.session.state == State::Up)
            .count();
        if up == spokes.len() {
            Ok(())
        } else {
            Err(format!("{up} Up"))
        }
    };
    eventually(DEADLINE, "every session Up", all_up).unwrap();
    let at_stop = hub.stop();
    assert!(at_stop.windows(2).all(|pair| pair[0].peer < pair[1].peer));
    assert!(at_stop.iter().all(|one| one.session.local_discr != 0));
}

/// Nothing received creates a session or is answered without one.
#[test]
fn strangers_are_counted_and_not_answered() {
    let addr = Ipv4Addr::new(127, 0, 5, 2);
    let port = free_port(addr);
    let peer = peer(addr, port, Rules::Ours);
    let stranger = UdpSocket::bind((Ipv4Addr::new(127, 0, 5, 3), port)).unwrap();
    let sound = Packet {
        state: State::Down,
        detect_mult: 3,
        my_discr: 1,
        your_discr: 0,
        desired_min_tx_us: 50_000,
        required_min_rx_us: 50_000,
        passive: false,
        version: Version::new([0; 4]),
        reserved_set: false,
    };
    stranger.send_to(&sound.encode(), (addr, port)).unwrap();
    stranger
        .send_to(&sound.encode()[..39], (addr, port))
        .unwrap();
    let counted = || {
        let strays = peer.strays();
        if (strays.unknown, strays.invalid) == (1, 1) {
            Ok(())
        } else {
            Err(format!("{strays:?}"))
        }
    };
    eventually(DEADLINE, "both counted", counted).unwrap();
    assert!(peer.sessions().is_empty());
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.recv(&mut [0; 64]).is_err(), "answered");
}

#[test]
fn an_interface_that_does_not_exist_is_an_error() {
    let config = UdpPeerConfig {
        device: Some("no-such-device".into()),
        ..UdpPeerConfig::new(Ipv4Addr::new(127, 0, 6, 2))
    };
    assert!(UdpPeer::spawn(config).is_err());
}
