//! Two hosts and a tunnel that bulk data goes through: bare, or with an agent on one of them that
//! keeps a thousand sessions, one of them with the address that the data goes to.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aya::maps::MapData;
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use dz_agent::datapath::MapReader;
use dz_common::map::name;
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home, Process};
use dz_tests::bed::{HERE, INTERFACE, THERE};
use dz_tests::netns::Netns;
use dz_tests::priority;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;
use dz_tests::xdp::PassAll;
use nix::sys::signal::Signal;
use serde_json::Value;

/// The far end of GRE's outer packets, and ours.
const UNDER: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const SESSIONS: u32 = 1_000;
/// The peers' network, which is the far host's own, and the first peer.
const NETWORK: &str = "10.9.0.0/16";
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// How long data is sent in one run, s.
const RUN: &str = "2";
/// For a thousand of something, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the tunnel is, and how the agent is attached to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    VethTc,
    VethXdp,
    Gre,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::VethTc => "veth_tc",
            Self::VethXdp => "veth_xdp",
            Self::Gre => "gre",
        }
    }

    /// Whether this kernel has it.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::VethTc | Self::VethXdp => None,
            Self::Gre => dz_tests::harness::Requirement::LinkKind("gre").missing(),
        }
    }
}

/// What is attached to the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// Nothing.
    Bare,
    /// At both ends an XDP program that does nothing.
    EmptyXdp,
    /// The agent, its sessions Up.
    Agent,
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the host with the agent: the gate sees the data, ingress the acknowledgements.
    Out,
    /// To it.
    In,
}

impl Direction {
    pub(crate) const ALL: [Self; 2] = [Self::Out, Self::In];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// What the agent's programs take of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Of one processor's time.
    pub(crate) percent: f64,
    pub(crate) per_packet_ns: f64,
}

enum Attached {
    Nothing,
    Empty { _ends: [PassAll; 2] },
    Agent(Box<Serving>),
}

struct Serving {
    agent: Agent,
    _peers: UdpPeer,
    _far: Option<PassAll>,
}

/// The hosts. Declared in the order of dropping.
pub(crate) struct Path {
    attached: Attached,
    _server: Process,
    here: Netns,
    there: Netns,
    kind: Kind,
}

impl Path {
    /// Bare.
    pub(crate) fn new(kind: Kind) -> anyhow::Result<Self> {
        let (here, there) = (Netns::new("bench")?, Netns::new("bench-far")?);
        let via = match kind {
            Kind::VethTc | Kind::VethXdp => {
                pair(
                    &here,
                    &there,
                    INTERFACE,
                    [HERE, THERE].map(|a| format!("{a}/31")),
                )?;
                format!("via {THERE}")
            }
            Kind::Gre => {
                pair(&here, &there, "under0", UNDER.map(|a| format!("{a}/30")))?;
                gre(&here, UNDER, HERE)?;
                gre(&there, [UNDER[1], UNDER[0]], THERE)?;
                String::new()
            }
        };
        // A whole network as one's own: a thousand addresses would take a thousand times as long.
        there.ip(&format!("route add local {NETWORK} dev lo"))?;
        here.ip(&format!("route add {NETWORK} {via} dev {INTERFACE}"))?;
        let mut server = Command::new("iperf3");
        server.arg("-s");
        let server = Process::spawn(&there, &mut server, "iperf3 -s".to_owned())?;
        before_others(server.pid());
        Ok(Self {
            attached: Attached::Nothing,
            _server: server,
            here,
            there,
            kind,
        })
    }

    /// Attaches something else.
    pub(crate) fn set(&mut self, setting: Setting) -> anyhow::Result<()> {
        match (&self.attached, setting) {
            (Attached::Nothing, Setting::Bare)
            | (Attached::Empty { .. }, Setting::EmptyXdp)
            | (Attached::Agent(_), Setting::Agent) => return Ok(()),
            _ => {}
        }
        if let Attached::Agent(serving) = std::mem::replace(&mut self.attached, Attached::Nothing) {
            let home = serving.agent.end(Signal::SIGTERM)?;
            let gone = MapReader::from_pins(home.pin_dir()).is_err();
            ensure!(gone, "the agent has left its maps");
        }
        self.attached = match setting {
            Setting::Bare => Attached::Nothing,
            Setting::EmptyXdp => Attached::Empty {
                _ends: [
                    PassAll::attach(&self.here, INTERFACE)?,
                    PassAll::attach(&self.there, INTERFACE)?,
                ],
            },
            Setting::Agent => Attached::Agent(Box::new(self.serve()?)),
        };
        Ok(())
    }

    /// Sends data for a while; bit/s that arrived.
    pub(crate) fn measure(&self, direction: Direction) -> anyhow::Result<f64> {
        let measured = eventually(PATIENCE, "a server of iperf3", || {
            self.run(direction).transpose()
        })??;
        if let Attached::Agent(serving) = &self.attached {
            let up = up(&serving.agent)?;
            ensure!(up == SESSIONS, "only {up} sessions are Up under load");
        }
        Ok(measured)
    }

    /// The same once more with the kernel's own clock on the agent's programs: what they took of the
    /// run, %, and of each packet, ns.
    pub(crate) fn programs(&self, direction: Direction) -> anyhow::Result<Share> {
        let _timed = enable_stats(Stats::RunTime)?;
        let before = self.timed()?;
        let begun = Instant::now();
        self.measure(direction)?;
        let took = begun.elapsed();
        let after = self.timed()?;
        let in_programs = after.0.saturating_sub(before.0).as_nanos() as f64;
        Ok(Share {
            percent: 100.0 * in_programs / took.as_nanos() as f64,
            per_packet_ns: in_programs / after.1.saturating_sub(before.1).max(1) as f64,
        })
    }

    /// How long the agent's programs have run, and how often.
    fn timed(&self) -> anyhow::Result<(Duration, u64)> {
        let Attached::Agent(serving) = &self.attached else {
            bail!("no agent");
        };
        let pins = serving.agent.home().pin_dir();
        let sessions = MapData::from_pin(pins.join(name::SESSIONS))?.info()?.id();
        let (mut time, mut count) = (Duration::ZERO, 0);
        for program in loaded_programs() {
            // One of somebody else's may go while they are listed.
            let Ok(program) = program else { continue };
            if program
                .map_ids()?
                .is_some_and(|ids| ids.contains(&sessions))
            {
                time += program.run_time();
                count += program.run_count();
            }
        }
        Ok((time, count))
    }

    /// None if the server does not listen yet: it does so anew for each run.
    fn run(&self, direction: Direction) -> anyhow::Result<Option<f64>> {
        let mut client = Command::new("iperf3");
        client.args(["--json", "--time", RUN, "--bind", &HERE.to_string()]);
        client.args(["--client", &FIRST.to_string()]);
        if std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1) {
            // Where they run must not be part of what is compared.
            client.args(["--affinity", "0,1"]);
        }
        if direction == Direction::In {
            client.arg("--reverse");
        }
        client.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = self.here.spawn(&mut client).context("running iperf3")?;
        before_others(child.id());
        let output = child.wait_with_output()?;
        let report: Value = serde_json::from_slice(&output.stdout).context("iperf3's report")?;
        let received = &report["end"]["sum_received"]["bits_per_second"];
        let error = report["error"].as_str().unwrap_or_default();
        if error.contains("unable to connect") {
            return Ok(None);
        }
        let received = received.as_f64().filter(|_| output.status.success());
        Ok(Some(received.with_context(|| format!("iperf3: {error}"))?))
    }

    /// Starts an agent and waits until all of its sessions are Up.
    fn serve(&self) -> anyhow::Result<Serving> {
        let (attach, via) = match self.kind {
            Kind::VethTc => ("tc", Some(THERE)),
            Kind::VethXdp => ("xdp", Some(THERE)),
            Kind::Gre => ("auto", None),
        };
        let far = match self.kind {
            // Without it the driver has nowhere to put what XDP_TX sends.
            Kind::VethXdp => Some(PassAll::attach(&self.there, INTERFACE)?),
            _ => None,
        };
        let mut arguments = vec!["--interface", INTERFACE, "--attach", attach];
        arguments.push("--metrics-listen=off");
        let agent = Agent::start_in(Home::new()?, &self.here, &arguments)?;
        let config = UdpPeerConfig {
            crowd: Some(HERE),
            ..UdpPeerConfig::new(Ipv4Addr::UNSPECIFIED)
        };
        let peers = self.there.run(|| UdpPeer::spawn(config)).context("peers")?;
        let addresses = (0..SESSIONS).map(|number| Ipv4Addr::from(u32::from(FIRST) + number));
        let mut lines = String::new();
        for address in addresses {
            peers.add_session(address);
            let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
            writeln!(lines, "{address} local {HERE}{via}")?;
        }
        let home = agent.home();
        let output = home.command_reading(&["connect", "--file", "-"], &lines)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "connect: {said}");
        eventually(PATIENCE, "sessions Up", || {
            let up = up(&agent)?;
            ensure!(up == SESSIONS, "{up} are");
            anyhow::Ok(())
        })?;
        Ok(Serving {
            agent,
            _peers: peers,
            _far: far,
        })
    }
}

/// What is compared should not depend on what else the machine does. Without the privilege it does
/// a little more.
fn before_others(pid: u32) {
    let _ = priority::raise(pid);
}

/// How many sessions are Up.
fn up(agent: &Agent) -> anyhow::Result<u32> {
    let maps = MapReader::from_pins(agent.home().pin_dir())?;
    let sessions = maps.sessions()?.into_iter();
    let up = sessions.filter(|entry| entry.session.state == State::Up);
    Ok(u32::try_from(up.count())?)
}

/// A pair as the kernel makes it: with segmentation offload, as bulk data has it everywhere.
fn pair(here: &Netns, there: &Netns, name: &str, addresses: [String; 2]) -> anyhow::Result<()> {
    let [a, b] = &addresses;
    veth::pair(&End::new(here, name, a), &End::new(there, name, b))?;
    for netns in [here, there] {
        netns.command(&format!("ethtool -K {name} tx on tso on gso on"))?;
    }
    Ok(())
}

fn gre(netns: &Netns, [local, remote]: [&str; 2], link: Ipv4Addr) -> anyhow::Result<()> {
    for line in [
        format!("link add {INTERFACE} type gre local {local} remote {remote} ttl 64"),
        format!("link set {INTERFACE} mtu 1476 addrgenmode none"),
        format!("address add {link}/31 dev {INTERFACE}"),
        format!("link set {INTERFACE} up"),
    ] {
        netns.ip(&line)?;
    }
    Ok(())
}
