//! Every state, mode and policy, with real packets: where each comes out, and what counts it.
//!
//! The agent stands still, and the test writes the session and the policy in its place: what
//! decides is the kernel program alone.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use dz_common::counters::Counter;
use dz_common::gate::Action;
use dz_common::map::{Config, Destination, SessionEntry, name};
use dz_common::packet::State;
use dz_common::session::Mode;
use dz_tests::bed::{HERE, THERE};
use nix::sys::signal::Signal;
use zerocopy::TryFromBytes;

use crate::scene::{
    DATA, Hosts, Kind, UNDER, UNDER_HERE, arrived, connect, counted, entry, maps, until_confined,
    until_detour,
};

type Sessions = HashMap<MapData, [u8; size_of::<Destination>()], [u8; size_of::<SessionEntry>()]>;

const ACTIONS: [Action; 3] = [Action::Pass, Action::Drop, Action::Reroute];

/// What the test writes.
struct Writer {
    sessions: Sessions,
    config: Array<MapData, [u8; size_of::<Config>()]>,
}

impl Writer {
    fn open(pins: &Path) -> Result<Self> {
        let open = |name: &str| -> Result<Map> {
            Ok(Map::from_map_data(MapData::from_pin(pins.join(name))?)?)
        };
        Ok(Self {
            sessions: HashMap::try_from(open(name::SESSIONS)?)?,
            config: Array::try_from(open(name::CONFIG)?)?,
        })
    }

    fn session(&mut self, entry: &SessionEntry) -> Result<()> {
        let key: [u8; size_of::<Destination>()] = zerocopy::transmute!(entry.key.destination());
        let value: [u8; size_of::<SessionEntry>()] = zerocopy::transmute!(*entry);
        Ok(self.sessions.insert(key, value, 0)?)
    }

    fn config(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        let found = self.config.get(&0, 0)?;
        let config = Config::try_read_from_bytes(&found);
        let mut config = config.ok().context("dz_config cannot be read")?;
        change(&mut config);
        let value: [u8; size_of::<Config>()] = zerocopy::transmute!(config);
        Ok(self.config.set(0, value, 0)?)
    }
}

/// One combination.
#[derive(Clone, Copy, Debug)]
struct Case {
    state: State,
    ups: u32,
    own: Mode,
    theirs: Mode,
    ignore: bool,
    when_down: Action,
    when_never_up: Action,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for state in State::ALL {
            for ups in [0, 1, 7] {
                for own in [Mode::Active, Mode::Passive] {
                    for theirs in [Mode::Unknown, Mode::Active, Mode::Passive] {
                        for ignore in [false, true] {
                            for when_down in ACTIONS {
                                for when_never_up in ACTIONS {
                                    cases.push(Self {
                                        state,
                                        ups,
                                        own,
                                        theirs,
                                        ignore,
                                        when_down,
                                        when_never_up,
                                    });
                                }
                            }
                        }
                    }
                }
            }
        }
        cases
    }

    /// In words of the documentation, not of the program.
    fn expected(&self) -> Counter {
        let honoured = self.theirs == Mode::Passive && !self.ignore;
        match () {
            () if self.state == State::Up => Counter::GateUp,
            () if self.own == Mode::Passive || honoured => Counter::GatePassive,
            () if self.ups == 0 => match self.when_never_up {
                Action::Pass => Counter::GateNeverUpPassed,
                Action::Drop => Counter::GateDropped,
                Action::Reroute => Counter::GateRerouted,
            },
            () => match self.when_down {
                Action::Pass => Counter::GateDownPassed,
                Action::Drop => Counter::GateDropped,
                Action::Reroute => Counter::GateRerouted,
            },
        }
    }

    fn write(&self, writer: &mut Writer, entry: &SessionEntry) -> Result<()> {
        let mut entry = *entry;
        entry.session.state = self.state;
        entry.session.ups = self.ups;
        entry.session.timers.mode = self.own;
        entry.session.peer_mode = self.theirs;
        writer.session(&entry)?;
        writer.config(|config| {
            config.ignore_peer_passive = u8::from(self.ignore);
            config.when_down = self.when_down;
            config.when_never_up = self.when_never_up;
        })
    }
}

pub(crate) fn all(kind: Kind) -> Result<()> {
    let hosts = Hosts::new(kind)?;
    hosts.route_under()?;
    hosts.route_into_tunnel()?;
    let mut agent = hosts.agent(&[])?;
    connect(&agent, &[])?;
    let maps = maps(agent.home())?;
    until_detour(&hosts, &maps, hosts.here.ifindex(UNDER)?)?;
    until_confined(&maps, HERE, true)?;
    until_confined(&maps, UNDER_HERE, false)?;
    agent.process().freeze()?;
    let mut writer = Writer::open(agent.home().pin_dir())?;
    let entry = entry(&maps)?;

    let (elsewhere, confined) = (hosts.socket(UNDER_HERE)?, hosts.socket(HERE)?);
    let (mut tunnelled, mut diverted) = (BTreeSet::new(), BTreeSet::new());
    let mut sequence = 0_u64;
    for case in Case::all() {
        case.write(&mut writer, &entry)?;
        for (socket, is_confined) in [(&elsewhere, false), (&confined, true)] {
            sequence += 1;
            let before = counted(&maps)?;
            socket.send_to(&sequence.to_be_bytes(), (THERE, DATA))?;
            let exit = match case.expected() {
                Counter::GateRerouted if is_confined => Counter::GateConfined,
                exit => exit,
            };
            moved(&before, &counted(&maps)?, exit).with_context(|| format!("{case:?}"))?;
            match exit {
                Counter::GateRerouted => diverted.insert(sequence),
                Counter::GateDropped | Counter::GateConfined => false,
                _ => tunnelled.insert(sequence),
            };
        }
        hosts.look()?;
    }
    liveness(&hosts, &mut writer, &entry, &maps)?;
    arrived("into the tunnel", &tunnelled, || hosts.in_tunnel())?;
    arrived("by the underlay", &diverted, || hosts.in_underlay())?;
    println!(
        "{sequence} packets: {} into the tunnel, {} by the underlay, the others dropped",
        tunnelled.len(),
        diverted.len()
    );
    agent.process().signal(Signal::SIGCONT)
}

/// Liveness packets pass whatever the state, and other packets to that port do not.
fn liveness(
    hosts: &Hosts,
    writer: &mut Writer,
    entry: &SessionEntry,
    maps: &dz_agent::datapath::MapReader,
) -> Result<()> {
    let case = Case {
        state: State::Down,
        ups: 1,
        own: Mode::Active,
        theirs: Mode::Active,
        ignore: false,
        when_down: Action::Drop,
        when_never_up: Action::Drop,
    };
    case.write(writer, entry)?;
    let socket = hosts.socket(HERE)?;
    let port = dz_common::LIVENESS_PORT;
    let send = |bytes: &[u8], port: u16, exits: &[(Counter, u64)]| -> Result<()> {
        let before = counted(maps)?;
        socket.send_to(bytes, (THERE, port))?;
        let after = counted(maps)?;
        let wanted: Vec<_> = exits.iter().map(|(c, by)| (c.name(), *by)).collect();
        let moved = difference(&before, &after);
        ensure!(moved == wanted, "{} bytes: {moved:?}", bytes.len());
        Ok(())
    };
    send(&[0; 40], port, &[(Counter::GateLiveness, 1)])?;
    send(&[0; 40], port + 1, &[(Counter::GateDropped, 1)])?;
    // Fragments: only the first has a port, and neither is a liveness packet. The stack drops what
    // follows a fragment that was dropped; hence they pass.
    let pass = Case {
        when_down: Action::Pass,
        ..case
    };
    pass.write(writer, entry)?;
    send(&[0; 2_000], port, &[(Counter::GateDownPassed, 2)])?;
    // To nobody that we know.
    let before = counted(maps)?;
    let stranger = std::net::Ipv4Addr::new(10, 255, 0, 1);
    hosts.here.ip(&format!(
        "route add {stranger}/32 dev {}",
        dz_tests::bed::INTERFACE
    ))?;
    hosts.here.ip(&format!(
        "neigh replace {stranger} lladdr 02:00:00:00:00:09 dev {} nud permanent",
        dz_tests::bed::INTERFACE
    ))?;
    socket.send_to(&[0; 8], (stranger, DATA))?;
    let wanted = [(Counter::GateNoSession.name(), 1)];
    let moved = difference(&before, &counted(maps)?);
    ensure!(moved == wanted, "{moved:?}");
    Ok(())
}

fn difference(
    before: &[(&'static str, u64)],
    after: &[(&'static str, u64)],
) -> Vec<(&'static str, u64)> {
    let old = |name| before.iter().find(|(found, _)| *found == name);
    after
        .iter()
        .map(|(name, count)| (*name, count - old(*name).map_or(0, |(_, count)| *count)))
        .filter(|(_, by)| *by > 0)
        .collect()
}

fn moved(
    before: &[(&'static str, u64)],
    after: &[(&'static str, u64)],
    exit: Counter,
) -> Result<()> {
    let moved = difference(before, after);
    ensure!(moved == [(exit.name(), 1)], "moved {moved:?}, not {exit:?}");
    Ok(())
}
