//! What an agent lives in here: peers of the file, of the API and one that comes and goes, and other people's things, of which
//! none may change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bed::{Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::bpf::{NEXT, Tcx, attach_tcx, load_classifier};
use dz_tests::bpftool;
use dz_tests::mark::{Mark, Marks};
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::wait::eventually;
use serde_json::Value;
use tempfile::TempDir;

/// Peers that the file names.
pub(crate) const FILE: [Ipv4Addr; 2] = [far(1), far(2)];
/// The one that a request has named.
pub(crate) const ASKED: Ipv4Addr = far(3);
/// The one that is connected and disconnected.
pub(crate) const CHANGING: Ipv4Addr = far(4);

/// As in the group `crash`: three seconds of silence, so that only the agent or the kernel programs can make a session flap.
const INTERVAL_MS: u32 = 100;
const DETECT_MULT: u8 = 30;
/// A device of somebody else's.
const OTHER: &str = "other0";
/// The programs of the agent, and somebody's behind them.
const PROGRAMS: u32 = 3;
/// Somebody's alone.
const THEIRS: u32 = 1;

/// What an agent has left, running or not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pins: BTreeSet<String>,
    programs: u32,
    routes: BTreeSet<Ipv4Addr>,
    sessions: BTreeMap<Ipv4Addr, (u32, u32)>,
}

impl Left {
    /// Says whether it is nothing.
    pub(crate) fn is_nothing(&self) -> bool {
        self.pins.is_empty() && self.programs == THEIRS && self.routes.is_empty()
    }
}

/// The scene.
pub(crate) struct Scene {
    pub(crate) bed: Bed,
    peers: BTreeMap<Ipv4Addr, UdpPeer>,
    files: TempDir,
    _other: Tun,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Scene {
    /// Makes it.
    pub(crate) fn new() -> Result<Self> {
        let bed = Bed::new("inject", Duration::ZERO)?;
        let other = Tun::new(&bed.here, OTHER, &["10.95.0.1/24"])?;
        let mut peers = BTreeMap::new();
        for address in FILE.into_iter().chain([ASKED, CHANGING]) {
            bed.there.ip(&format!("address add {address}/32 dev lo"))?;
            let timers = Timers {
                desired_min_tx_us: INTERVAL_MS * 1_000,
                required_min_rx_us: INTERVAL_MS * 1_000,
                detect_mult: DETECT_MULT,
                backoff_cap_us: 400_000,
                ..Timers::DEFAULT
            };
            let config = UdpPeerConfig {
                timers,
                ..UdpPeerConfig::new(address)
            };
            let peer = bed.there.run(|| UdpPeer::spawn(config));
            let peer = peer.context("UDP peer")?;
            peer.add_session(HERE);
            peers.insert(address, peer);
        }
        let here = &bed.here;
        here.ip(&format!(
            "route add {} dev {OTHER} metric 7 proto 186",
            FILE[0]
        ))?;
        here.ip(&format!(
            "route add {ASKED} dev {INTERFACE} table 77 proto 186"
        ))?;
        here.ip("route add 10.94.0.0/16 dev other0 proto 186")?;
        here.command(&format!("tc qdisc add dev {OTHER} clsact"))?;
        let program = load_classifier(&NEXT)?;
        let ifindex = here.ifindex(INTERFACE)?;
        let link = here.run(|| attach_tcx(program.as_fd(), ifindex, Tcx::Ingress))?;
        let files = tempfile::tempdir()?;
        let lines = FILE.map(|peer| format!("{peer} local {HERE}\n"));
        fs::write(files.path().join("peers"), lines.concat())?;
        Ok(Self {
            bed,
            peers,
            files,
            _other: other,
            _program: program,
            _link: link,
        })
    }

    /// An agent's arguments.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let interval = format!("{INTERVAL_MS}ms");
        let peers = self.files.path().join("peers");
        let pairs = [
            ("--interface", INTERFACE.to_owned()),
            ("--peers", peers.to_string_lossy().into_owned()),
            ("--tx-interval", interval.clone()),
            ("--rx-interval", interval),
            ("--detect-mult", DETECT_MULT.to_string()),
            ("--max-sessions", "1024".to_owned()),
        ];
        let words = pairs
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        words.collect()
    }

    /// A home with somebody else's pin beside it.
    pub(crate) fn home() -> Result<Home> {
        let home = Home::nested()?;
        let beside = home.pin_dir().with_file_name("theirs");
        let what = "map create PATH type array key 4 value 4 entries 1 name theirs";
        let beside = beside.to_string_lossy();
        let words = what
            .split(' ')
            .map(|word| if word == "PATH" { &*beside } else { word });
        bpftool::json(&words.collect::<Vec<_>>())?;
        Ok(home)
    }

    /// Starts an agent without faults.
    pub(crate) fn start(&self, home: Home) -> Result<Agent> {
        let arguments = self.arguments();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Agent::start_in(home, &self.bed.here, &arguments)
    }

    /// Waits until everything is as it should be with these peers, and returns the sessions.
    pub(crate) fn right(&self, agent: &Agent, wanted: &[Ipv4Addr]) -> Result<Marks> {
        eventually(PATIENCE, "what should be", || self.look(agent, wanted))
    }

    /// Looks whether it is so.
    pub(crate) fn look(&self, agent: &Agent, wanted: &[Ipv4Addr]) -> Result<Marks> {
        let wanted: BTreeSet<_> = wanted.iter().copied().collect();
        let marks = self.marks(agent.home())?;
        ensure!(marks.keys().eq(&wanted), "sessions {:?}", marks.keys());
        let routes = self.routes()?;
        ensure!(routes == wanted, "routes {routes:?}");
        let shown = agent.get("/v1/sessions")?;
        let shown = shown["sessions"].as_array().map_or(0, Vec::len);
        ensure!(shown == wanted.len(), "{shown} sessions are shown");
        let programs = attached::programs(&self.bed.here, INTERFACE)?;
        ensure!(programs == PROGRAMS, "{programs} programs on {INTERFACE}");
        let status = agent.home().command(&["status"])?;
        ensure!(status.status.success(), "status: {status:?}");
        Ok(marks)
    }

    fn marks(&self, home: &Home) -> Result<Marks> {
        let mut marks = Marks::new();
        let mut slots = BTreeSet::new();
        for entry in MapReader::from_pins(home.pin_dir())?.sessions()? {
            let peer = Ipv4Addr::from(entry.key.peer);
            let far = self.peers.get(&peer).and_then(|peer| peer.session(HERE));
            let far = far.with_context(|| format!("a session with {peer}"))?;
            ensure!(
                entry.session.state == State::Up && far.session.state == State::Up,
                "{peer}: {:?}, there {:?}",
                entry.session.state,
                far.session.state
            );
            ensure!(slots.insert(entry.slot), "a deadline slot of two sessions");
            let twice = marks.insert(peer, Mark::of(&entry, &far));
            ensure!(twice.is_none(), "two sessions with {peer}");
        }
        Ok(marks)
    }

    /// Where our routes lead. Two to one address are an error.
    pub(crate) fn routes(&self) -> Result<BTreeSet<Ipv4Addr>> {
        let shown = self.bed.here.ip("-j route show table all proto 144")?;
        let mut routes = BTreeSet::new();
        let shown: Value = serde_json::from_str(&shown)?;
        for route in shown.as_array().context("no list")? {
            let to = route["dst"].as_str().context("no destination")?;
            ensure!(route["dev"] == INTERFACE, "{route}");
            ensure!(routes.insert(to.parse()?), "two routes of ours to {to}");
        }
        Ok(routes)
    }

    /// What an agent has left.
    pub(crate) fn left(&self, home: &Home) -> Result<Left> {
        let mut sessions = BTreeMap::new();
        // Without maps there are none.
        if let Ok(reader) = MapReader::from_pins(home.pin_dir()) {
            for entry in reader.sessions()? {
                let counts = (entry.generation, entry.session.transitions);
                sessions.insert(Ipv4Addr::from(entry.key.peer), counts);
            }
        }
        Ok(Left {
            pins: names(home.pin_dir()),
            programs: attached::programs(&self.bed.here, INTERFACE)?,
            routes: self.routes()?,
            sessions,
        })
    }

    /// Waits until nothing of an agent's is left: the kernel takes programs off after a grace period.
    pub(crate) fn nothing_left(&self, home: &Home) -> Result<()> {
        eventually(PATIENCE, "nothing left", || {
            let left = self.left(home)?;
            ensure!(left.is_nothing(), "{left:?}");
            anyhow::Ok(())
        })
    }

    /// Other people's things, as text.
    pub(crate) fn others(&self, home: &Home) -> Result<String> {
        let here = &self.bed.here;
        let beside = home.pin_dir().parent().context("a folder")?;
        let mut beside = names(beside);
        beside.remove("ours");
        let mut text = format!("{beside:?}\n");
        for line in [
            "ip -4 route show table all",
            "ip -4 rule",
            "ip -4 -o address show",
            "tc qdisc show",
        ] {
            let shown = here.command(line)?;
            let theirs = shown.lines().filter(|line| !line.contains("proto 144"));
            text.extend(theirs.map(|line| format!("{}\n", line.trim_end())));
        }
        Ok(text)
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}

const fn far(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}
