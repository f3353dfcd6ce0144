//! Thousands of peers: two hosts and a wire between them, an agent at the near end, and its sessions.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{HERE, INTERFACE, THERE};
use dz_tests::netns::Netns;
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;
use serde_json::Value;

/// The first peer of many, all of them behind the far end of the wire.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(10, 16, 0, 1);
/// Their network.
pub(crate) const NETWORK: &str = "10.16.0.0/12";
/// For thousands of something, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(180);

/// Number so and so of them.
pub(crate) fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + number)
}

/// How an agent keeps its sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) interval_ms: u32,
    pub(crate) detect_mult: u8,
}

/// The deployed defaults, but quicker: what the goals are about.
pub(crate) const QUICK: Timing = Timing {
    interval_ms: 300,
    detect_mult: 3,
};

impl Timing {
    pub(crate) const fn interval_us(self) -> u32 {
        1_000 * self.interval_ms
    }
}

/// Two hosts and a wire, a pair of virtual Ethernet devices.
pub(crate) struct Hosts {
    pub(crate) here: Netns,
    pub(crate) there: Netns,
}

impl Hosts {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::with_queues(1)
    }

    /// Where so many CPUs can receive at the same time.
    pub(crate) fn with_queues(queues: usize) -> anyhow::Result<Self> {
        let (here, there) = (Netns::new("bench")?, Netns::new("bench-far")?);
        let [a, b] = [HERE, THERE].map(|address| format!("{address}/31"));
        let [a, b] = [(&here, &a), (&there, &b)].map(|(netns, address)| End {
            queues,
            ..End::new(netns, INTERFACE, address)
        });
        veth::pair(&a, &b)?;
        Ok(Self { here, there })
    }

    /// Has whoever is at the near end reach the peers.
    pub(crate) fn route_to_peers(&self) -> anyhow::Result<()> {
        let line = format!("route add {NETWORK} via {THERE} dev {INTERFACE}");
        self.here.ip(&line).map(drop)
    }

    /// Starts an agent with room for so many sessions.
    pub(crate) fn agent(
        &self,
        sessions: u32,
        timing: Timing,
        more: &[&str],
    ) -> anyhow::Result<Agent> {
        self.agent_in(Home::new()?, sessions, timing, more)
    }

    /// The same in a home where another one may have lived.
    pub(crate) fn agent_in(
        &self,
        home: Home,
        sessions: u32,
        timing: Timing,
        more: &[&str],
    ) -> anyhow::Result<Agent> {
        let interval = format!("{}ms", timing.interval_ms);
        let (multiplier, room) = (timing.detect_mult.to_string(), sessions.to_string());
        let mut arguments = vec!["--interface", INTERFACE, "--metrics-listen=off"];
        arguments.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
        arguments.extend(["--detect-mult", &multiplier, "--max-sessions", &room]);
        arguments.extend(more);
        Agent::start_in(home, &self.here, &arguments)
    }

    /// The same with a session to each of so many peers, all of them Up.
    pub(crate) fn agent_with_sessions(
        &self,
        sessions: u32,
        timing: Timing,
        more: &[&str],
    ) -> anyhow::Result<Agent> {
        let agent = self.agent(sessions, timing, more)?;
        connect(&agent, (0..sessions).map(peer), Some(THERE))?;
        until_up(&agent, &self.here, sessions)?;
        Ok(agent)
    }
}

/// Connects an agent to peers, with routes by a gateway if there is one.
pub(crate) fn connect(
    agent: &Agent,
    peers: impl Iterator<Item = Ipv4Addr>,
    via: Option<Ipv4Addr>,
) -> anyhow::Result<()> {
    let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
    let mut lines = String::new();
    for peer in peers {
        writeln!(lines, "{peer} local {HERE}{via}")?;
    }
    let home = agent.home();
    let output = home.command_reading(&["connect", "--file", "-"], &lines)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "connect: {said}");
    Ok(())
}

/// Waits until so many sessions are Up, and have their routes.
pub(crate) fn until_up(agent: &Agent, here: &Netns, sessions: u32) -> anyhow::Result<()> {
    let all_up = eventually(PATIENCE, "sessions Up, and their routes", || {
        let up = up(agent)?;
        ensure!(up == sessions, "{up} are Up");
        let routes = here.ip("route show proto 144")?.lines().count();
        ensure!(routes == sessions as usize, "{routes} routes");
        anyhow::Ok(())
    });
    all_up.context("sessions with the far end")
}

/// How many sessions are Up.
pub(crate) fn up(agent: &Agent) -> anyhow::Result<u32> {
    let maps = MapReader::from_pins(agent.home().pin_dir())?;
    let sessions = maps.sessions()?.into_iter();
    let up = sessions.filter(|entry| entry.session.state == State::Up);
    Ok(u32::try_from(up.count())?)
}

/// Packets that have come in.
pub(crate) fn received(netns: &Netns) -> anyhow::Result<u64> {
    let shown = netns.ip(&format!("-j -s link show {INTERFACE}"))?;
    let shown: Value = serde_json::from_str(&shown)?;
    let packets = shown[0]["stats64"]["rx"]["packets"].as_u64();
    packets.with_context(|| format!("no statistics: {shown}"))
}
