use dz_common::entry::Identity;
use dz_common::map::Origin;
use dz_common::session::{Session, Timers};

use super::*;

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const IFINDEX: u32 = 3;
const FLOW: Flow = Flow {
    dst: PEER,
    src: LOCAL,
};

struct World {
    peers: HashMap<PeerKey, Peer>,
    carriers: HashMap<String, Carrier>,
    sessions: Vec<SessionEntry>,
    closing: HashSet<RouteKey>,
    routes: Vec<Route>,
    refused: HashSet<PeerKey>,
    detours: BTreeMap<Flow, u32>,
    ignore_peer_passive: bool,
}

impl World {
    /// One peer, its session Up, its route there.
    fn settled() -> Self {
        let mut world = Self {
            peers: HashMap::from_iter([(peer_key("dz0", PEER), peer())]),
            carriers: HashMap::default(),
            sessions: vec![entry(State::Up)],
            closing: HashSet::default(),
            routes: vec![route()],
            refused: HashSet::default(),
            detours: BTreeMap::new(),
            ignore_peer_passive: false,
        };
        world.carrier(IFINDEX, &[LOCAL]);
        world
    }

    fn carrier(&mut self, ifindex: u32, locals: &[Ipv4Addr]) {
        let locals = locals.iter().copied().collect();
        self.carriers.insert(
            "dz0".to_owned(),
            Carrier {
                ifindex,
                leaving: false,
                locals,
            },
        );
    }

    fn decide(&self) -> Vec<Op> {
        decide(&Facts {
            peers: &self.peers,
            carriers: &self.carriers,
            sessions: &self.sessions,
            closing: &self.closing,
            routes: &self.routes,
            refused: &self.refused,
            detours: &self.detours,
            ignore_peer_passive: self.ignore_peer_passive,
        })
    }
}

fn peer() -> Peer {
    Peer {
        local: LOCAL.octets(),
        via: [0; 4],
        timers: Timers::DEFAULT,
        origin: Origin::Api,
        left_out: 0,
        reserved: [0; 2],
    }
}

fn key() -> SessionKey {
    SessionKey {
        ifindex: IFINDEX,
        local: LOCAL.octets(),
        peer: PEER.octets(),
    }
}

fn entry(state: State) -> SessionEntry {
    let mut session = Session::new(Timers::DEFAULT, 7, 1);
    session.state = state;
    SessionEntry {
        detour: 9,
        ..SessionEntry::new(
            Identity {
                key: key(),
                slot: 0,
                generation: 1,
                block: 1,
                seed: 1,
            },
            session,
        )
    }
}

fn route() -> Route {
    Route {
        dst: PEER,
        ifindex: IFINDEX,
        src: Some(LOCAL),
        via: None,
    }
}

#[test]
fn a_followed_peer_has_no_route_of_ours() {
    let mut world = World::settled();
    for peer in world.peers.values_mut() {
        peer.origin = Origin::Follow;
    }
    assert_eq!(world.decide(), [Op::AdjustRoute(ROUTE)], "one is left over");
    for state in State::ALL
        .into_iter()
        .filter(|state| *state != State::AdminDown)
    {
        let mut entry = entry(state);
        for mode in [Mode::Active, Mode::Passive] {
            entry.session.timers.mode = mode;
            let peer = world.peers[&peer_key("dz0", PEER)];
            assert_eq!(wanted_route(&entry, &peer, false), Wanted::Absent);
        }
    }
    world.routes.clear();
    assert_eq!(world.decide(), []);
}

const ROUTE: RouteKey = RouteKey {
    ifindex: IFINDEX,
    dst: PEER,
};

#[test]
fn nothing_to_do_when_all_is_well() {
    assert_eq!(World::settled().decide(), []);
}

#[test]
fn a_peer_without_a_session_gets_one() {
    let mut world = World::settled();
    world.sessions.clear();
    let ops = world.decide();
    assert_eq!(
        ops,
        [Op::Open(peer_key("dz0", PEER)), Op::AdjustRoute(ROUTE)]
    );
}

#[test]
fn a_session_without_a_peer_goes_with_its_route() {
    let mut world = World::settled();
    world.peers.clear();
    let ops = world.decide();
    assert_eq!(
        ops,
        [
            Op::Close {
                key: key(),
                announce: true
            },
            Op::AdjustRoute(ROUTE)
        ]
    );
}

#[test]
fn a_session_of_another_local_address_goes() {
    let mut world = World::settled();
    world.carrier(IFINDEX, &[LOCAL, Ipv4Addr::new(10, 0, 0, 9)]);
    world.sessions[0].key.local = [10, 0, 0, 9];
    let close = Op::Close {
        key: world.sessions[0].key,
        announce: true,
    };
    let follow = Op::AdjustRoute(ROUTE);
    assert_eq!(world.decide(), [close, follow], "the next one has to wait");
    world.sessions[0].session.state = State::AdminDown;
    world.routes.clear();
    assert_eq!(world.decide(), [close], "while it is on its way out");
    world.sessions.clear();
    world.closing.insert(ROUTE);
    assert_eq!(world.decide(), [], "and is not there any more");
    world.closing.clear();
    assert_eq!(world.decide(), [Op::Open(peer_key("dz0", PEER))]);
}

#[test]
fn a_way_around_is_kept_until_a_look_says_otherwise() {
    let mut world = World::settled();
    assert_eq!(world.decide(), [], "not looked up yet");
    world.detours.insert(FLOW, 9);
    assert_eq!(world.decide(), []);
    world.detours.insert(FLOW, 0);
    assert_eq!(world.decide(), [Op::Divert(ROUTE)]);
}

#[test]
fn a_way_around_is_a_sources_own() {
    let mut world = World::settled();
    let [before, after] = [[10, 0, 0, 0], [10, 0, 0, 9]].map(|src| Flow {
        src: src.into(),
        ..FLOW
    });
    for other in [before, after] {
        world.detours.insert(other, 4);
        assert_eq!(world.decide(), [], "another session's");
    }
    world.detours.insert(FLOW, 9);
    assert_eq!(world.decide(), []);
    world.detours.insert(FLOW, 4);
    assert_eq!(world.decide(), [Op::Divert(ROUTE)]);
}

#[test]
fn an_address_that_cannot_be_a_peers_has_no_session() {
    let mut world = World::settled();
    world.refused.insert(peer_key("dz0", PEER));
    let close = Op::Close {
        key: world.sessions[0].key,
        announce: true,
    };
    assert_eq!(world.decide()[0], close);
    world.sessions.clear();
    assert_eq!(
        world.decide(),
        [Op::AdjustRoute(ROUTE)],
        "and is not opened"
    );
}

#[test]
fn a_passive_peer_can_be_ignored() {
    for (ignore, expected) in [(false, vec![]), (true, vec![Op::AdjustRoute(ROUTE)])] {
        let mut world = World::settled();
        world.ignore_peer_passive = ignore;
        world.sessions[0] = entry(State::Down);
        world.sessions[0].session.peer_mode = Mode::Passive;
        assert_eq!(world.decide(), expected, "{ignore}");
    }
}

#[test]
fn without_its_address_a_session_is_parked_in_silence() {
    let mut world = World::settled();
    world.carrier(IFINDEX, &[]);
    let ops = world.decide();
    assert_eq!(
        ops,
        [
            Op::Close {
                key: key(),
                announce: false
            },
            Op::AdjustRoute(ROUTE)
        ]
    );
}

#[test]
fn an_interface_created_anew_gets_its_sessions_back() {
    let mut world = World::settled();
    world.carrier(IFINDEX + 1, &[LOCAL]);
    world.routes.clear();
    let ops = world.decide();
    let close = Op::Close {
        key: key(),
        announce: false,
    };
    assert_eq!(ops, [close, Op::Open(peer_key("dz0", PEER))]);
}

#[test]
fn a_disconnect_cut_short_goes_on() {
    let mut world = World::settled();
    world.peers.clear();
    world.sessions[0] = entry(State::AdminDown);
    world.routes.clear();
    assert_eq!(
        world.decide(),
        [Op::Close {
            key: key(),
            announce: true
        }]
    );
}

#[test]
fn routes_follow_the_table() {
    use Mode::{Active, Passive};
    // State, our mode, the peer's mode, whether there is a route: whether that is to be changed.
    let table = [
        (State::Up, Active, Active, true, false),
        (State::Up, Active, Active, false, true),
        (State::Up, Active, Passive, false, true),
        (State::Up, Passive, Active, false, true),
        (State::Init, Active, Active, true, true),
        (State::Init, Active, Active, false, false),
        (State::Down, Active, Active, true, true),
        (State::Down, Active, Passive, true, false),
        (State::Down, Active, Passive, false, false),
        (State::Down, Passive, Active, true, false),
        (State::Down, Passive, Active, false, true),
    ];
    for (state, own, theirs, there, wrong) in table {
        let mut world = World::settled();
        world.sessions[0] = entry(state);
        world.sessions[0].session.timers.mode = own;
        for peer in world.peers.values_mut() {
            peer.timers.mode = own;
        }
        world.sessions[0].session.peer_mode = theirs;
        if !there {
            world.routes.clear();
        }
        let expected: &[Op] = if wrong {
            &[Op::AdjustRoute(ROUTE)]
        } else {
            &[]
        };
        assert_eq!(
            world.decide(),
            expected,
            "{state:?} {own:?} {theirs:?} {there}"
        );
    }
}

#[test]
fn a_route_that_differs_is_put_right() {
    let mut world = World::settled();
    world.routes[0].via = Some(Ipv4Addr::new(10, 0, 0, 3));
    assert_eq!(world.decide(), [Op::AdjustRoute(ROUTE)]);
}

#[test]
fn routes_of_interfaces_that_are_not_ours_are_none_of_our_business() {
    let mut world = World::settled();
    world.routes.push(Route {
        ifindex: 77,
        ..route()
    });
    assert_eq!(world.decide(), []);
}

#[test]
fn a_session_gets_the_timers_of_its_peer_and_none_that_is_wanted_by_nobody() {
    let mut world = World::settled();
    let peer = world.peers.values_mut().next().unwrap();
    peer.timers.detect_mult += 1;
    assert_eq!(world.decide(), [Op::Retime(key())]);
    world.sessions[0].session.state = State::AdminDown;
    assert!(!world.decide().contains(&Op::Retime(key())));
}

#[test]
fn an_interface_that_is_leaving_closes_its_sessions_and_opens_none() {
    let mut world = World::settled();
    world.carriers.get_mut("dz0").unwrap().leaving = true;
    let close = Op::Close {
        key: key(),
        announce: true,
    };
    assert_eq!(world.decide(), [close, Op::AdjustRoute(ROUTE)]);
    world.sessions.clear();
    world.routes.clear();
    assert_eq!(world.decide(), []);
}

#[test]
fn each_of_many_has_its_own_route_and_way_around() {
    let mut world = World::settled();
    world.carriers.insert(
        "dz1".to_owned(),
        Carrier {
            ifindex: IFINDEX + 1,
            leaving: false,
            locals: HashSet::from_iter([LOCAL]),
        },
    );
    let (template, peer) = (world.sessions[0], peer());
    world.peers.clear();
    world.sessions.clear();
    world.routes.clear();
    // Routes of two interfaces to each of 19 destinations, in no order.
    let at = |n: u32| RouteKey {
        dst: Ipv4Addr::new(10, 1, 0, (n * 7 % 19) as u8),
        ifindex: IFINDEX + n % 2,
    };
    for n in 0..38 {
        let RouteKey { dst, ifindex } = at(n);
        let name = if ifindex == IFINDEX { "dz0" } else { "dz1" };
        world.peers.insert(peer_key(name, dst), peer);
        let mut session = template;
        session.key.ifindex = ifindex;
        session.key.peer = dst.octets();
        world.sessions.push(session);
        world.routes.push(Route {
            dst,
            ifindex,
            ..route()
        });
        let src = LOCAL;
        world.detours.insert(Flow { dst, src }, template.detour);
    }
    world.sessions.reverse();
    assert_eq!(world.decide(), []);

    // The first, the last and some between them.
    for n in [0, 5, 11, 37] {
        let mut broken = World {
            sessions: world.sessions.clone(),
            closing: HashSet::default(),
            routes: world.routes.clone(),
            peers: world.peers.clone(),
            carriers: world.carriers.clone(),
            refused: HashSet::default(),
            detours: world.detours.clone(),
            ignore_peer_passive: false,
        };
        let key = at(n);
        broken
            .routes
            .retain(|route| (route.dst, route.ifindex) != (key.dst, key.ifindex));
        assert_eq!(broken.decide(), [Op::AdjustRoute(key)], "no route");

        broken.routes = world.routes.clone();
        let flow = Flow {
            dst: key.dst,
            ..FLOW
        };
        broken.detours.insert(flow, 0);
        let other = RouteKey {
            ifindex: 2 * IFINDEX + 1 - key.ifindex,
            ..key
        };
        let (low, high) = (key.min(other), key.max(other));
        assert_eq!(broken.decide(), [Op::Divert(low), Op::Divert(high)]);

        broken.detours.clone_from(&world.detours);
        broken.sessions.retain(|entry| route_key(&entry.key) != key);
        broken.peers.remove(&peer_key(
            if key.ifindex == IFINDEX { "dz0" } else { "dz1" },
            key.dst,
        ));
        assert_eq!(
            broken.decide(),
            [Op::AdjustRoute(key)],
            "a route of no session"
        );
    }
}

#[test]
fn of_several_routes_of_ours_the_last_counts() {
    let mut world = World::settled();
    let other = Route {
        via: Some(Ipv4Addr::new(10, 0, 0, 3)),
        ..route()
    };
    world.routes = vec![other, route()];
    assert_eq!(world.decide(), []);
    world.routes = vec![route(), other];
    assert_eq!(world.decide(), [Op::AdjustRoute(ROUTE)]);
    world.sessions.clear();
    world.peers.clear();
    assert_eq!(world.decide(), [Op::AdjustRoute(ROUTE)], "once");
}
