//! Two hosts and two tunnels between them that are alike: one with an agent at the near end that
//! keeps a thousand sessions, one of them with the address that the data goes to, and one without.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::maps::MapData;
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use dz_agent::datapath::MapReader;
use dz_common::counters::Counter;
use dz_common::map::name;
use dz_tests::agent::{Agent, Home};
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::{HERE, INTERFACE, THERE};
use dz_tests::netns::Netns;
use dz_tests::priority;
use dz_tests::veth::{self, End};
use nix::sys::signal::Signal;

use crate::crowd;
use crate::flows::{Direction, Flow};

/// The tunnel without an agent.
const BARE: &str = "bare0";
/// Its ends.
const BARE_ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 8, 0), Ipv4Addr::new(169, 254, 8, 1)];
/// Both ends of GRE's outer packets, for one tunnel and for the other.
const OUTER: [[&str; 2]; 2] = [["192.0.2.1", "192.0.2.2"], ["192.0.2.5", "192.0.2.6"]];
/// The device below both tunnels.
const UNDERLAY: &str = "under0";
const SESSIONS: u32 = 1_000;
/// The peers' network, which is the far host's own, and the first peer.
const NETWORK: &str = "10.9.0.0/16";
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The same behind the other tunnel.
const BARE_NETWORK: &str = "10.10.0.0/16";
const BARE_FIRST: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);

/// What the tunnels are, and how the agent is attached to its one.
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

    const fn attach(self) -> &'static str {
        match self {
            Self::VethTc => "tc",
            Self::VethXdp => "xdp",
            Self::Gre => "auto",
        }
    }

    /// What answers at the far end, and on which device: below a tunnel, for what the far end has to
    /// do is not what is measured.
    const fn responder(self) -> (&'static str, Program) {
        match self {
            Self::VethTc => (INTERFACE, Program::RespondEthernet),
            Self::VethXdp => (INTERFACE, Program::RespondXdp),
            Self::Gre => (UNDERLAY, Program::RespondGre),
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

/// What the agent's clock has sent.
pub(crate) struct Transmissions {
    maps: MapReader,
    block: u32,
}

impl Transmissions {
    /// Up to now.
    pub(crate) fn count(&self) -> anyhow::Result<u64> {
        Ok(self.maps.counters(self.block)?.get(Counter::TxOriginated))
    }
}

/// The hosts. Declared in the order of dropping.
pub(crate) struct Path {
    /// Stands still but while its tunnel is measured.
    agent: Agent,
    _far: Bare,
    empty: Option<[Bare; 2]>,
    here: Netns,
    there: Netns,
}

impl Path {
    /// With all sessions Up, and nothing on the other tunnel.
    pub(crate) fn new(kind: Kind) -> anyhow::Result<Self> {
        let (here, there) = (Netns::new("bench")?, Netns::new("bench-far")?);
        if kind == Kind::Gre {
            let [a, b] = OUTER[0].map(|address| format!("{address}/29"));
            pair(&here, &there, UNDERLAY, [a, b])?;
            let [a, b] = OUTER[1].map(|address| format!("address add {address}/29 dev {UNDERLAY}"));
            here.ip(&a)?;
            there.ip(&b)?;
        }
        let tunnels = [(INTERFACE, [HERE, THERE]), (BARE, BARE_ENDS)];
        for ((tunnel, ends), outer) in tunnels.into_iter().zip(OUTER) {
            if kind == Kind::Gre {
                gre(&here, tunnel, outer, ends[0])?;
                gre(&there, tunnel, [outer[1], outer[0]], ends[1])?;
            } else {
                pair(&here, &there, tunnel, ends.map(|end| format!("{end}/31")))?;
            }
        }
        for netns in [&here, &there] {
            // Whoever stands still for a moment is to go on as if nothing had been.
            netns.command("sysctl -qw net.ipv4.tcp_slow_start_after_idle=0")?;
        }
        // Whole networks as one's own: a thousand addresses would take a thousand times as long.
        for network in [NETWORK, BARE_NETWORK] {
            there.ip(&format!("route add local {network} dev lo"))?;
        }
        let via = (kind != Kind::Gre).then(|| format!(" via {}", BARE_ENDS[1]));
        let via = via.unwrap_or_default();
        here.ip(&format!("route add {BARE_NETWORK}{via} dev {BARE}"))?;

        let (device, responder) = kind.responder();
        let far = Bare::attach(&there, device, responder)?;
        let mut agent = serve(&here, kind)?;
        agent.process().freeze()?;
        Ok(Self {
            agent,
            _far: far,
            empty: None,
            here,
            there,
        })
    }

    /// Attaches XDP programs that do nothing to both ends of the tunnel without an agent.
    pub(crate) fn empty_xdp(&mut self) -> anyhow::Result<()> {
        self.empty = Some([
            Bare::attach(&self.here, BARE, Program::EmptyXdp)?,
            Bare::attach(&self.there, BARE, Program::EmptyXdp)?,
        ]);
        Ok(())
    }

    /// Data through the agent's tunnel, and through the other one.
    pub(crate) fn flows(&mut self, direction: Direction) -> anyhow::Result<[Flow; 2]> {
        self.agent.process().signal(Signal::SIGCONT)?;
        let hosts = (&self.here, &self.there);
        let served = Flow::new(hosts, HERE, FIRST, direction)?;
        let bare = Flow::new(hosts, BARE_ENDS[0], BARE_FIRST, direction)?;
        self.agent.process().freeze()?;
        Ok([served, bare])
    }

    /// Does something while the agent runs. It has stood still, and has to catch up with its
    /// transmissions first.
    pub(crate) fn with_agent<T>(
        &mut self,
        catch_up: Duration,
        run: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.agent.process().signal(Signal::SIGCONT)?;
        thread::sleep(catch_up);
        let done = run();
        self.agent.process().freeze()?;
        done
    }

    /// For counting what the agent's clock sends.
    pub(crate) fn transmissions(&self) -> anyhow::Result<Transmissions> {
        let maps = MapReader::from_pins(self.agent.home().pin_dir())?;
        let locals = maps.locals()?;
        let ours = locals.iter().find(|(key, _)| key.addr == HERE.octets());
        let (_, block) = *ours.context("no counters of our address")?;
        Ok(Transmissions { maps, block })
    }

    /// All sessions are Up, under load as well.
    pub(crate) fn ensure_up(&self) -> anyhow::Result<()> {
        let up = crowd::up(&self.agent)?;
        ensure!(up == SESSIONS, "only {up} sessions are Up under load");
        Ok(())
    }

    /// What the agent's programs, by the kernel's own clock, take of a run, %, and of each packet, ns.
    pub(crate) fn programs<T>(
        &mut self,
        catch_up: Duration,
        run: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<Share> {
        let _timed = enable_stats(Stats::RunTime)?;
        let before = self.timed()?;
        let begun = Instant::now();
        self.with_agent(catch_up, run)?;
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
        let pins = self.agent.home().pin_dir();
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
}

/// Starts an agent and waits until all of its sessions are Up.
fn serve(here: &Netns, kind: Kind) -> anyhow::Result<Agent> {
    let mut arguments = vec!["--interface", INTERFACE, "--attach", kind.attach()];
    // It is made to stand still and catch up all the time, and under XDP the far end's ring is short.
    arguments.extend(["--detect-mult=20", "--metrics-listen=off"]);
    // What it has to catch up with then must not take the processor from the data.
    arguments.push("--realtime=off");
    let mut agent = Agent::start_in(Home::new()?, here, &arguments)?;
    // But nor must the data, which runs before others, keep it from what it sends otherwise.
    let _ = priority::raise(agent.process().pid());
    let peers = (0..SESSIONS).map(|number| Ipv4Addr::from(u32::from(FIRST) + number));
    crowd::connect(&agent, peers, (kind != Kind::Gre).then_some(THERE))?;
    crowd::until_up(&agent, here, SESSIONS)?;
    Ok(agent)
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

fn gre(
    netns: &Netns,
    tunnel: &str,
    [local, remote]: [&str; 2],
    link: Ipv4Addr,
) -> anyhow::Result<()> {
    for line in [
        format!("link add {tunnel} type gre local {local} remote {remote} ttl 64"),
        format!("link set {tunnel} mtu 1476 addrgenmode none"),
        format!("address add {link}/31 dev {tunnel}"),
        format!("link set {tunnel} up"),
    ] {
        netns.ip(&line)?;
    }
    Ok(())
}
