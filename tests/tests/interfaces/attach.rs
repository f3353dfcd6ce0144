//! What `--attach auto` chooses, and changes from one hook to another.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::harness::Requirement::{LinkKind, Root, Tool, Tun};
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::{eventually, holds, join};
use nix::sys::signal::Signal;

const PORT: u16 = 44880;
const DEVICE: &str = "near0";
const PEERS: u32 = 20;
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 1);
/// Both sides' interval and multiplier: 2 s, for machines that stand still for a moment.
const INTERVAL_MS: u32 = 200;
const DETECT_MULT: u8 = 10;
/// With answers by native XDP, which this wire swallows, many a session has gone Down by then.
const WATCHED: Duration = Duration::from_secs(15);

pub(super) fn tests() -> Vec<Test> {
    let on = |kind: &'static str, more: &str| {
        let create = format!("link add {INTERFACE}{more} type {kind}");
        move || auto(&create.clone(), kind)
    };
    vec![
        Test::new("attach::auto_on_tun", &[Root, Tun], || {
            auto(
                &format!("tuntap add dev {INTERFACE} mode tun"),
                "layer-3 device",
            )
        }),
        Test::new("attach::auto_on_tap", &[Root, Tun], || {
            auto(&format!("tuntap add dev {INTERFACE} mode tap"), "a tun")
        }),
        Test::new("attach::auto_on_gre", &[Root, LinkKind("gre")], || {
            let ends = "local 192.0.2.1 remote 192.0.2.2";
            let create = format!("link add {INTERFACE} type gre {ends}");
            auto(&create, "layer-3 device")
        }),
        Test::new("attach::auto_on_veth", &[Root], on("veth", "")),
        Test::new(
            "attach::auto_on_bridge",
            &[Root, LinkKind("bridge")],
            on("bridge", ""),
        ),
        Test::new(
            "attach::auto_on_vlan",
            &[Root, LinkKind("vlan")],
            on_upper("vlan", "vlan id 7"),
        ),
        Test::new(
            "attach::auto_on_macvlan",
            &[Root, LinkKind("macvlan")],
            on_upper("macvlan", "macvlan mode bridge"),
        ),
        Test::new(
            "attach::twenty_sessions",
            &[Root, Tool("ethtool")],
            twenty_sessions,
        ),
        Test::new(
            "attach::from_xdp_to_auto",
            &[Root, Tool("ethtool")],
            from_xdp_to_auto,
        ),
        Test::new(
            "attach::every_packet_once",
            &[Root, Tool("ethtool")],
            every_packet_once,
        ),
        Test::new(
            "attach::from_mode_to_mode",
            &[Root, Tool("ethtool")],
            from_mode_to_mode,
        ),
    ]
}

/// A device on top of a veth.
fn on_upper(kind: &'static str, link: &'static str) -> impl FnOnce() -> Result<()> + Send {
    let create = format!("link add link lower0 name {INTERFACE} type {link}");
    move || auto(&create, kind)
}

/// On a device that is created like that, `auto` is TC and says why.
fn auto(create: &str, why: &str) -> Result<()> {
    let here = Netns::new("auto")?;
    here.ip("link add lower0 type veth peer name lower1")?;
    // What is above it cannot be up before it is.
    here.ip("link set lower0 up")?;
    here.ip(create)?;
    here.ip(&format!("address add 169.254.7.0/31 dev {INTERFACE}"))?;
    here.ip(&format!("link set {INTERFACE} up"))?;
    let mut agent = Agent::start(&here, &["--interface", INTERFACE])?;
    let status = agent.json(&["status", "--json"])?;
    let interface = &status["interfaces"][0];
    let reason = interface["attach_reason"].as_str().context("no reason")?;
    ensure!(
        interface["attach"] == "tc" && reason.contains(why),
        "{status}"
    );
    let shown = agent.cli(&["status"])?;
    ensure!(
        shown.contains(&format!("{INTERFACE}: tc: {reason}")),
        "{shown}"
    );
    ensure!(attached::programs(&here, INTERFACE)? == 2, "{shown}");
    let log = agent.process().log();
    ensure!(log.contains("attached") && log.contains(reason), "{log}");
    Ok(())
}

/// Twenty peers with the deployed rules at the far end of a veth.
struct Wire {
    here: Netns,
    there: Netns,
    peers: Vec<UdpPeer>,
}

impl Wire {
    fn new(label: &str) -> Result<Self> {
        let mut wire = Self::bare(label)?;
        let interval_us = INTERVAL_MS * 1_000;
        let timers = Timers {
            desired_min_tx_us: interval_us,
            required_min_rx_us: interval_us,
            backoff_cap_us: 1_000_000,
            detect_mult: DETECT_MULT,
            ..Timers::DEFAULT
        };
        for local in addresses() {
            wire.there.ip(&format!("address add {local}/24 dev far0"))?;
            let config = UdpPeerConfig {
                timers,
                ..UdpPeerConfig::new(local)
            };
            let peer = wire
                .there
                .run(|| UdpPeer::spawn(config))
                .context("UDP peer")?;
            peer.add_session(NEAR);
            wire.peers.push(peer);
        }
        Ok(wire)
    }

    /// One without peers.
    fn bare(label: &str) -> Result<Self> {
        let (here, there) = (Netns::new(label)?, Netns::new(label)?);
        veth::pair(
            &End::new(&here, DEVICE, "10.5.0.1/24"),
            &End::new(&there, "far0", "10.5.0.100/24"),
        )?;
        Ok(Self {
            here,
            there,
            peers: Vec::new(),
        })
    }

    fn agent(&self, home: Home, attach: &str) -> Result<Agent> {
        let (interval, mult) = (format!("{INTERVAL_MS}ms"), DETECT_MULT.to_string());
        let mut arguments = vec!["--interface", DEVICE, "--attach", attach];
        arguments.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
        arguments.extend(["--detect-mult", &mult]);
        Agent::start_in(home, &self.here, &arguments)
    }

    /// Connects an agent to every peer, and waits until all are Up.
    fn connect(&self, agent: &Agent) -> Result<()> {
        let peers: Vec<_> = addresses().map(|peer| peer.to_string()).collect();
        let near = NEAR.to_string();
        let mut words = vec!["connect", "--local", &near];
        words.extend(peers.iter().map(String::as_str));
        agent.cli(&words)?;
        eventually(PATIENCE, "twenty sessions Up", || self.all_up(agent))
    }

    fn all_up(&self, agent: &Agent) -> Result<()> {
        let status = agent.get("/v1/status")?;
        ensure!(status["sessions"]["up"] == PEERS, "{status}");
        Ok(())
    }

    /// How often a session went from one state to another, ours and theirs.
    fn changes(&self, agent: &Agent) -> Result<(u64, usize)> {
        let shown = agent.get("/v1/sessions")?;
        let sessions = shown["sessions"].as_array().context("no sessions")?;
        let ours = sessions
            .iter()
            .map(|session| session["transitions"].as_u64());
        let ours = ours.sum::<Option<u64>>().context("no transitions")?;
        let changes = |peer: &UdpPeer| peer.session(NEAR).map_or(0, |seen| seen.changes.len());
        Ok((ours, self.peers.iter().map(changes).sum()))
    }

    fn mode(&self, agent: &Agent) -> Result<String> {
        let status = agent.get("/v1/status")?;
        let mode = status["interfaces"][0]["attach"].as_str();
        Ok(mode.context("not attached")?.to_owned())
    }
}

fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    (1..=PEERS).map(|last| Ipv4Addr::from(u32::from(NEAR) + 100 + last))
}

/// Nobody has an XDP program at the far end, as in the field, and no session ever goes Down.
fn twenty_sessions() -> Result<()> {
    let wire = Wire::new("twenty")?;
    let agent = wire.agent(Home::new()?, "auto")?;
    wire.connect(&agent)?;
    let before = wire.changes(&agent)?;
    holds(WATCHED, "nothing changes", || {
        wire.all_up(&agent)?;
        let now = wire.changes(&agent)?;
        ensure!(now == before, "changes {before:?}, now {now:?}");
        Ok(())
    })
}

/// An agent that had attached XDP, as 0.1.0 did on a veth by itself, is replaced by one that has TC.
fn from_xdp_to_auto() -> Result<()> {
    let wire = Wire::new("toauto")?;
    let far = Bare::attach(&wire.there, "far0", Program::EmptyXdp)?;
    let agent = wire.agent(Home::new()?, "xdp")?;
    wire.connect(&agent)?;
    ensure!(wire.mode(&agent)? == "xdp");
    let before = wire.changes(&agent)?;
    let home = agent.end(Signal::SIGUSR2)?;
    let agent = wire.agent(home, "auto")?;
    ensure!(wire.mode(&agent)? == "tc");
    // The far end's program is not needed any more.
    drop(far);
    ensure!(attached::programs(&wire.here, DEVICE)? == 2);
    let link = wire.here.ip(&format!("-d link show {DEVICE}"))?;
    ensure!(!link.contains("xdp"), "{link}");
    holds(WATCHED, "nobody has noticed", || {
        wire.all_up(&agent)?;
        let now = wire.changes(&agent)?;
        ensure!(now == before, "changes {before:?}, now {now:?}");
        Ok(())
    })
}

/// At each start with another mode the earlier program goes: two would see every packet twice.
fn from_mode_to_mode() -> Result<()> {
    let wire = Wire::new("modes")?;
    let _far = Bare::attach(&wire.there, "far0", Program::EmptyXdp)?;
    let mut home = Home::new()?;
    for mode in ["tc", "xdp", "tc", "xdp-generic", "xdp", "xdp-generic", "tc"] {
        let agent = wire.agent(home, mode)?;
        ensure!(wire.mode(&agent)? == mode);
        attached::until(&wire.here, DEVICE, 2).with_context(|| mode.to_owned())?;
        home = agent.end(Signal::SIGUSR2)?;
    }
    Ok(())
}

/// While an agent after the other takes TC, generic XDP, TC, each packet is seen by one program: none
/// gets past, and none is counted twice. (Native XDP is no fair test of that: a veth throws away what is
/// in its queues when it comes or goes.)
fn every_packet_once() -> Result<()> {
    let wire = Wire::bare("once")?;
    let mut agent = wire.agent(Home::new()?, "tc")?;
    // A peer that the agent does not know. The first packet waits for the neighbour's address.
    let stranger = Ipv4Addr::new(10, 5, 0, 200);
    wire.there
        .ip(&format!("address add {stranger}/24 dev far0"))?;
    let socket = wire.there.run(|| UdpSocket::bind((stranger, PORT)))?;
    socket.connect((NEAR, PORT))?;
    socket.send(b"one")?;
    eventually(PATIENCE, "the first packet", || {
        let seen = from_strangers(&agent)?;
        ensure!(seen == 1, "{seen}");
        anyhow::Ok(())
    })?;
    let (stop, stopped) = mpsc::channel::<()>();
    let sender = thread::spawn(move || -> std::io::Result<u64> {
        let mut sent = 1;
        while stopped.recv_timeout(Duration::from_micros(200)) == Err(RecvTimeoutError::Timeout) {
            socket.send(b"more")?;
            sent += 1;
        }
        Ok(sent)
    });
    for mode in ["xdp-generic", "tc", "xdp-generic", "tc"] {
        let home = agent.end(Signal::SIGUSR2)?;
        agent = wire.agent(home, mode)?;
        ensure!(wire.mode(&agent)? == mode);
    }
    drop(stop);
    let sent = join(sender).context("the sender has panicked")??;
    ensure!(sent > 500, "only {sent} packets sent");
    eventually(PATIENCE, "every packet counted once", || {
        let seen = from_strangers(&agent)?;
        ensure!(seen == sent, "{seen} of {sent}");
        anyhow::Ok(())
    })
}

/// How many packets of peers without a session were received, by whichever program.
fn from_strangers(agent: &Agent) -> Result<u64> {
    let shown = agent.get("/v1/counters")?;
    let blocks = shown["blocks"].as_array().context("no blocks")?;
    let unknown = blocks
        .iter()
        .map(|block| block["counters"]["drop_unknown_peer"].as_u64());
    unknown.sum::<Option<u64>>().context("no such counter")
}
