//! What happens to peers, with somebody blind who sends in the name of one of them.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::{DownReason, Session};
use dz_tests::agent::{Agent, Home};
use dz_tests::bed;
use dz_tests::harness::Test;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::{eventually, holds};
use nix::sys::signal::Signal;

use crate::blind::{Blind, counted};
use crate::scene::{
    Attach, DETECT, INTERVAL_MS, Scene, VICTIM, WITNESS, Wire, ours, theirs, until, until_up,
};

/// For how long nothing may happen.
const CALM: Duration = Duration::from_secs(4);

const RULES: [(&str, Rules); 3] = [
    ("deployed", Rules::Deployed),
    ("before_0_32", Rules::DeployedBefore0_32),
    ("ours", Rules::Ours),
];
type Event = fn(Stage) -> Result<()>;
const EVENTS: [(&str, Event); 6] = [
    ("calm", calm),
    ("peer_restarts", peer_restarts),
    ("peer_freezes", peer_freezes),
    ("peer_stops", peer_stops),
    ("losses", losses),
    ("agent_forgets", agent_forgets),
];

pub(super) fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for attach in [Attach::Layer3, Attach::Ethernet, Attach::Xdp] {
        for (whose, rules) in RULES {
            for (name, event) in EVENTS {
                if !is_worth_it(attach, rules, name) {
                    continue;
                }
                let name = format!("{}::{whose}::{name}", attach.name());
                tests.push(Test::new(name, &attach.needs(), move || {
                    event(Stage::new(attach, rules)?)
                }));
            }
        }
    }
    tests
}

/// All events with the deployed peers' rules, at one attach point. The properties of `dz-common` go through
/// millions of packets with all rules, and the group `inputs` through each packet at every attach point, so that of
/// other rules and other attach points the event with the most to say is enough, and of other rules
/// that with losses, which is for a wire of the test's own.
fn is_worth_it(attach: Attach, rules: Rules, event: &str) -> bool {
    match (attach, rules, event) {
        (Attach::Layer3, Rules::Deployed, _) => true,
        (Attach::Layer3, _, "losses") => true,
        (Attach::Layer3, ..) | (_, Rules::Deployed, _) => event == "peer_restarts",
        _ => false,
    }
}

/// Two sessions that are Up, and the agent that keeps them.
struct Stage {
    scene: Scene,
    agent: Agent,
    victim: UdpPeer,
    witness: UdpPeer,
}

/// What two ends of a session have been through since they came Up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Falls {
    ours: u32,
    theirs: usize,
}

impl Stage {
    fn new(attach: Attach, rules: Rules) -> Result<Self> {
        let scene = Scene::new(attach)?;
        let stage = Self {
            agent: scene.agent()?,
            victim: scene.peer(VICTIM, rules)?,
            witness: scene.peer(WITNESS, rules)?,
            scene,
        };
        stage.until_up()?;
        Ok(stage)
    }

    fn home(&self) -> &Home {
        self.agent.home()
    }

    fn ends(&self) -> [(Ipv4Addr, &UdpPeer); 2] {
        [(VICTIM, &self.victim), (WITNESS, &self.witness)]
    }

    fn until_up(&self) -> Result<()> {
        for (address, peer) in self.ends() {
            until_up(self.home(), address, peer)?;
        }
        Ok(())
    }

    /// Somebody who knows the discriminators of the other session.
    fn blind(&self) -> Result<Blind> {
        let session = ours(self.home(), WITNESS)?;
        let seen = [session.local_discr, session.peer_discr];
        Ok(Blind::start(&self.scene.wire, seen))
    }

    /// How often the victim's session fell, and the other one.
    fn falls(&self) -> Result<[Falls; 2]> {
        let falls = self.ends().map(|(address, peer)| -> Result<Falls> {
            let session = ours(self.home(), address)?;
            let changes = theirs(peer)?.changes;
            Ok(Falls {
                ours: session.ups - u32::from(session.state == State::Up),
                theirs: changes.iter().filter(|one| one.from == State::Up).count(),
            })
        });
        let [victim, witness] = falls;
        Ok([victim?, witness?])
    }

    /// Nobody falls for a while.
    fn nobody_falls(&self, time: Duration) -> Result<()> {
        let before = self.falls()?;
        holds(time, "nobody falls", || {
            let now = self.falls()?;
            ensure!(now == before, "{before:?}, then {now:?}");
            anyhow::Ok(())
        })
    }

    fn route(&self, peer: Ipv4Addr) -> Result<bool> {
        Ok(!bed::route_to(&self.scene.here, peer)?.is_empty())
    }
}

/// What a packet that is believed would change.
fn learned(session: &Session) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        session.peer_discr,
        session.peer_desired_min_tx_us,
        session.peer_required_min_rx_us,
        session.peer_version,
        session.peer_mode,
        session.transitions,
    )
}

/// Nothing happens, while the agent runs and while it stands still.
fn calm(mut stage: Stage) -> Result<()> {
    let before = ours(stage.home(), VICTIM)?;
    let sent = |peer| -> Result<u64> {
        let entries = bed::entries(stage.agent.home())?.into_iter();
        let mut with = entries.filter(|entry| Ipv4Addr::from(entry.key.peer) == peer);
        let entry = with.next().context("no session")?;
        Ok(entry.answered + entry.originated)
    };
    let earlier = [sent(VICTIM)?, sent(WITNESS)?];
    let blind = stage.blind()?;
    stage.nobody_falls(CALM)?;
    let [spoofed, alone] = [sent(VICTIM)? - earlier[0], sent(WITNESS)? - earlier[1]];
    println!("sent to the victim {spoofed}, to the other {alone}");
    // Stateless answers delay nothing, and replace nothing.
    ensure!(spoofed * 2 > alone && alone * 2 > spoofed);
    stage.agent.process().freeze()?;
    stage.nobody_falls(CALM)?;
    stage.agent.process().signal(Signal::SIGCONT)?;
    println!("{} blind packets", blind.end()?);
    let after = ours(stage.home(), VICTIM)?;
    ensure!(learned(&before) == learned(&after), "{before:?}\n{after:?}");
    ensure!(stage.route(VICTIM)? && stage.route(WITNESS)?);
    counted(&stage.agent)
}

/// With new discriminators: Up again without a Down here, or after our deadline.
fn peer_restarts(stage: Stage) -> Result<()> {
    let blind = stage.blind()?;
    for (_, peer) in stage.ends() {
        peer.restart_with_new_discriminators();
    }
    let start = Instant::now();
    stage.until_up()?;
    let [victim, witness] = stage.falls()?;
    println!(
        "Up again after {:?}; fallen {victim:?}, without blind packets {witness:?}",
        start.elapsed()
    );
    ensure!(victim.ours <= 1 && victim.theirs <= witness.theirs);
    if victim.ours == 1 {
        let reason = ours(stage.home(), VICTIM)?.last_down_reason;
        ensure!(reason == DownReason::Timeout, "{reason:?}");
    }
    stage.nobody_falls(CALM)?;
    println!("{} blind packets", blind.end()?);
    counted(&stage.agent)
}

/// For longer than a detection time: both ends fall once.
fn peer_freezes(stage: Stage) -> Result<()> {
    let blind = stage.blind()?;
    for (_, peer) in stage.ends() {
        peer.silence();
    }
    for (address, _) in stage.ends() {
        until(stage.home(), address, State::Down)?;
    }
    let fallen = stage.falls()?;
    ensure!(fallen[0].ours == 1, "{fallen:?}");
    holds(DETECT, "the victim is Down", || {
        let session = ours(stage.home(), VICTIM)?;
        ensure!(session.state == State::Down, "{session:?}");
        ensure!(
            session.last_down_reason == DownReason::Timeout,
            "{session:?}"
        );
        anyhow::Ok(())
    })?;
    ensure!(!stage.route(VICTIM)?);
    for (_, peer) in stage.ends() {
        peer.resume();
    }
    let start = Instant::now();
    stage.until_up()?;
    println!("Up again after {:?}", start.elapsed());
    stage.nobody_falls(CALM)?;
    let once = Falls { ours: 1, theirs: 1 };
    let falls = stage.falls()?;
    ensure!(falls == [once; 2], "{falls:?}");
    println!("{} blind packets", blind.end()?);
    counted(&stage.agent)
}

/// For good: we notice in time, and nobody makes us believe otherwise.
fn peer_stops(stage: Stage) -> Result<()> {
    let blind = stage.blind()?;
    let ups = ours(stage.home(), VICTIM)?.ups;
    let at = Instant::now();
    for peer in [stage.victim, stage.witness] {
        drop(peer);
    }
    let home = stage.agent.home();
    let down = until(home, VICTIM, State::Down)?;
    println!("noticed after {:?}", at.elapsed());
    ensure!(down.last_down_reason == DownReason::Timeout, "{down:?}");
    // From the last packet on, no longer.
    let late_ns = down.since_ns - down.last_rx_ns;
    ensure!(u128::from(late_ns) < 2 * DETECT.as_nanos(), "{late_ns} ns");
    until(home, WITNESS, State::Down)?;
    bed::until_route(&stage.scene.here, VICTIM, false)?;
    holds(CALM, "the victim stays Down", || {
        let session = ours(home, VICTIM)?;
        ensure!(
            session.state == State::Down && session.ups == ups,
            "{session:?}"
        );
        ensure!(bed::route_to(&stage.scene.here, VICTIM)?.is_empty());
        anyhow::Ok(())
    })?;
    println!("{} blind packets", blind.end()?);
    Ok(())
}

/// The wire loses all packets for half of the time, but his.
fn losses(stage: Stage) -> Result<()> {
    let Wire::Layer3(wire) = &*stage.scene.wire else {
        anyhow::bail!("this wire cannot be cut");
    };
    let blind = stage.blind()?;
    let before = stage.falls()?;
    let apart = Duration::from_millis(u64::from(INTERVAL_MS) * 5);
    for _ in 0..6 {
        wire.set_cut_both(true);
        thread::sleep(apart);
        wire.set_cut_both(false);
        thread::sleep(apart);
    }
    let after = stage.falls()?;
    ensure!(after == before, "{before:?}, then {after:?}");
    println!("{} blind packets", blind.end()?);
    counted(&stage.agent)
}

/// Our agent comes back without its kernel part and with another secret: peers cling to what they know
/// of us, and are back when nobody sends in their name any more.
fn agent_forgets(stage: Stage) -> Result<()> {
    let Stage {
        scene,
        agent,
        victim,
        witness,
    } = stage;
    let old = ours(agent.home(), VICTIM)?;
    let seen = [old.local_discr ^ 1, old.peer_discr ^ 1];
    let blind = Blind::start(&scene.wire, seen);
    drop(agent.crash()?);
    for peer in [&victim, &witness] {
        until_down(peer)?;
    }
    let stage = Stage {
        agent: scene.agent()?,
        scene,
        victim,
        witness,
    };
    let ours_now = ours(stage.home(), VICTIM)?;
    ensure!(ours_now.local_discr != old.local_discr, "the same secret?");
    until_up(stage.home(), WITNESS, &stage.witness)?;
    let sent = blind.end()?;
    let start = Instant::now();
    until_up(stage.home(), VICTIM, &stage.victim)?;
    println!(
        "{sent} blind packets; back {:?} after them",
        start.elapsed()
    );
    // We believed nobody but the peer.
    let falls = stage.falls()?;
    ensure!(falls[0].ours == 0 && falls[1].ours == 0, "{falls:?}");
    stage.nobody_falls(CALM)
}

/// The peer has noticed that we are gone.
fn until_down(peer: &UdpPeer) -> Result<()> {
    eventually(bed::PATIENCE, "a peer that is not Up", || {
        let session = theirs(peer)?.session;
        ensure!(session.state != State::Up, "{session:?}");
        anyhow::Ok(())
    })
}
