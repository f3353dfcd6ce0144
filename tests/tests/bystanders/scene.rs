//! An interface that other people use, too, and what of it is theirs.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::Array;
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bed::{Bed, INTERFACE, PATIENCE, THERE};
use dz_tests::bpf::{NEXT, Tcx, attach_tcx, load_classifier};
use dz_tests::harness::Requirement;
use dz_tests::netns::Netns;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{Rules, UdpPeer, UdpPeerConfig};
use dz_tests::wait::eventually;
use dz_tests::wire::TunWire;
use serde_json::Value;

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 5] = [
    Requirement::Root,
    Requirement::Tun,
    Requirement::Tool("bpftool"),
    Requirement::Tool("tc"),
    Requirement::Kernel(6, 6),
];
/// Our address, which comes and goes.
pub(crate) const OURS: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
/// A peer to which somebody else has a route with the metric that ours would have.
pub(crate) const TAKEN: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// A device of somebody else's.
pub(crate) const OTHER: &str = "other0";
/// The interface of the other agent.
const SECOND: &str = "second0";
const SECOND_HERE: &str = "169.254.8.0";
const SECOND_THERE: Ipv4Addr = Ipv4Addr::new(169, 254, 8, 1);
/// How often everybody sends, and how many may be missing: three seconds, for the other agent's
/// session must not flap because the machine is busy.
const TIMING: [&str; 6] = [
    "--tx-interval",
    "100ms",
    "--rx-interval",
    "100ms",
    "--detect-mult",
    "30",
];

/// Everything that is there.
pub(crate) struct Scene {
    pub(crate) bed: Option<Bed>,
    pub(crate) peer: UdpPeer,
    pub(crate) taken: UdpPeer,
    second: Second,
    _other: Tun,
    /// Programs of other people on our interface.
    programs: Vec<OwnedFd>,
}

/// Another agent, on an interface of its own.
struct Second {
    agent: Agent,
    _peer: UdpPeer,
    _wire: TunWire,
}

impl Scene {
    pub(crate) fn new() -> Result<Self> {
        let bed = Bed::new("bystand", Duration::ZERO)?;
        let other = Tun::new(&bed.here, OTHER, &["10.95.0.1/24"])?;
        let second = Second::new(&bed)?;
        bed.there.ip(&format!("address add {TAKEN}/32 dev lo"))?;
        bed.there.ip(&format!("route add {OURS} dev {INTERFACE}"))?;
        let far = |address| -> Result<UdpPeer> {
            let peer = bed.there.run(|| UdpPeer::spawn(far_end(address)))?;
            peer.add_session(OURS);
            Ok(peer)
        };
        let (peer, taken) = (far(THERE)?, far(TAKEN)?);
        let mut scene = Self {
            bed: None,
            peer,
            taken,
            second,
            _other: other,
            programs: Vec::new(),
        };
        scene.furnish(bed)?;
        Ok(scene)
    }

    pub(crate) fn bed(&self) -> Result<&Bed> {
        self.bed.as_ref().context("no interface")
    }

    pub(crate) fn hold(&self, hold: bool) -> Result<()> {
        let word = if hold { "add" } else { "delete" };
        let line = format!("address {word} {OURS}/32 dev {INTERFACE}");
        self.bed()?.here.ip(&line).map(drop)
    }

    /// Everything of other people's on our interface.
    pub(crate) fn furnish(&mut self, bed: Bed) -> Result<()> {
        let here = &bed.here;
        here.ip(&format!("address add {OURS}/32 dev {INTERFACE}"))?;
        for route in [
            format!("10.50.0.0/16 dev {INTERFACE} proto 186"),
            format!("10.50.0.1 dev {INTERFACE} proto 186 metric 20"),
            format!("{THERE} dev {INTERFACE} proto 186 metric 7"),
            format!("{THERE} dev {OTHER} proto 186 metric 50"),
            format!("{THERE} dev {INTERFACE} proto 186 table 77"),
            format!("{TAKEN} dev {OTHER} proto 186"),
            format!("10.51.0.1 dev {OTHER} proto 144"),
            // Nothing that an agent makes, although under its number.
            format!("10.52.0.0/24 dev {INTERFACE} proto 144"),
            format!("10.53.0.1 dev {INTERFACE} proto 144 table 77"),
        ] {
            here.ip(&format!("route replace {route}"))?;
        }
        here.command(&format!("tc qdisc add dev {INTERFACE} clsact"))?;
        for hook in ["ingress", "egress"] {
            filter(here, INTERFACE, hook)?;
        }
        self.bed = Some(bed);
        self.tcx()
    }

    /// A program of somebody else's behind those that are there, where the kernel has TCX.
    pub(crate) fn tcx(&mut self) -> Result<()> {
        if !attached::by_tcx() {
            return Ok(());
        }
        let program = load_classifier(&NEXT)?;
        let bed = self.bed.as_ref().context("no interface")?;
        let ifindex = bed.here.ifindex(INTERFACE)?;
        for hook in [Tcx::Ingress, Tcx::Egress] {
            let link = bed
                .here
                .run(|| attach_tcx(program.as_fd(), ifindex, hook))
                .context("TCX")?;
            self.programs.push(link);
        }
        Ok(())
    }

    /// The interface goes, with everything on it, and comes back under a new index.
    pub(crate) fn delete_interface(&mut self) -> Result<(Netns, Netns)> {
        self.programs.clear();
        let Bed { here, there, wire } = self.bed.take().context("no interface")?;
        drop(wire);
        Ok((here, there))
    }

    pub(crate) fn start(&self, home: Home) -> Result<Agent> {
        let mut arguments = vec!["--interface", INTERFACE, "--max-sessions", "2048"];
        arguments.extend(TIMING);
        Agent::start_in(home, &self.bed()?.here, &arguments)
    }

    /// What is other people's now.
    pub(crate) fn look(&self, home: &Home) -> Result<Look> {
        look(&self.bed()?.here, home)
    }

    /// The other agent has noticed nothing.
    pub(crate) fn second(&self) -> Result<String> {
        let shown = self.second.agent.json(&["sessions", "--json"])?;
        let session = &shown["sessions"][0];
        ensure!(
            session["state"] == "up" && session["route"]["state"] == "present",
            "{shown}"
        );
        Ok(format!("{} transitions", session["transitions"]))
    }
}

impl Second {
    fn new(bed: &Bed) -> Result<Self> {
        let here = Tun::new(&bed.here, SECOND, &[&format!("{SECOND_HERE}/31")])?;
        let there = Tun::new(&bed.there, SECOND, &[&format!("{SECOND_THERE}/31")])?;
        let wire = TunWire::connect(here, there, Duration::ZERO)?;
        let peer = bed.there.run(|| UdpPeer::spawn(far_end(SECOND_THERE)))?;
        peer.add_session(SECOND_HERE.parse()?);
        let mut arguments = vec!["--interface", SECOND, "--metrics-listen", "off"];
        arguments.extend(TIMING);
        let agent = Agent::start(&bed.here, &arguments)?;
        let there = SECOND_THERE.to_string();
        agent.cli(&["connect", &there, "--local", SECOND_HERE])?;
        eventually(PATIENCE, "the other agent's session and route", || {
            let shown = bed.here.ip(&format!("route show {there}"))?;
            ensure!(shown.contains("proto 144"), "{shown}");
            anyhow::Ok(())
        })?;
        Ok(Self {
            agent,
            _peer: peer,
            _wire: wire,
        })
    }
}

fn far_end(address: Ipv4Addr) -> UdpPeerConfig {
    let mut config = UdpPeerConfig {
        rules: Rules::Deployed,
        ..UdpPeerConfig::new(address)
    };
    config.timers.desired_min_tx_us = 100_000;
    config.timers.required_min_rx_us = 100_000;
    config.timers.detect_mult = 30;
    config.timers.backoff_cap_us = 400_000;
    config
}

/// A filter of somebody else's that matches nothing.
fn filter(netns: &Netns, device: &str, hook: &str) -> Result<()> {
    let mut command = Command::new("tc");
    command.args(["filter", "add", "dev", device, hook, "prio", "10", "bpf"]);
    // `ret #0` of classic BPF, one word of the command line.
    command.args(["bytecode", "1,6 0 0 0"]);
    let output = netns.output(&mut command)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// What is other people's: lines, by where they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look(pub(crate) BTreeMap<&'static str, Vec<String>>);

impl Look {
    /// Fails with the lines that are there on one side only.
    pub(crate) fn same(&self, now: &Self, when: &str) -> Result<()> {
        for (place, before) in &self.0 {
            let now = now.0.get(place).map_or(&[][..], Vec::as_slice);
            let gone: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
            let new: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
            ensure!(
                before == now,
                "after {when}, {place}: gone {gone:#?}, new {new:#?}, or in another order"
            );
        }
        Ok(())
    }

    /// Without what the kernel takes away with an interface or an address.
    pub(crate) fn without(&self, words: &str) -> Self {
        let keep = |lines: &Vec<String>| {
            let lines = lines.iter().filter(|line| !line.contains(words));
            lines.cloned().collect()
        };
        Self(
            self.0
                .iter()
                .map(|(place, lines)| (*place, keep(lines)))
                .collect(),
        )
    }
}

/// Reads everything and leaves out what is ours.
pub(crate) fn look(netns: &Netns, home: &Home) -> Result<Look> {
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let mut look = BTreeMap::new();
    let ours = |line: &String| {
        let host = line.split_whitespace().find(|word| *word != "unicast");
        let host = host.is_some_and(|dst| !dst.contains('/'));
        host && line.contains(&format!(" dev {INTERFACE} "))
            && line.contains(" proto 144 ")
            && line.contains(" table main ")
    };
    let mut routes = lines(netns.ip("-d route show table all")?);
    routes.retain(|line| !ours(line));
    look.insert("routes", routes);
    look.insert("rules", lines(netns.ip("rule show")?));
    let mut filters = Vec::new();
    for device in [INTERFACE, OTHER, SECOND] {
        for hook in ["ingress", "egress"] {
            // No such device at present: no filters.
            let shown = netns.command(&format!("tc filter show dev {device} {hook}"));
            let shown = lines(shown.unwrap_or_default());
            let shown = shown
                .into_iter()
                .map(|line| format!("dev {device} {hook} {line}"));
            filters.extend(shown);
        }
    }
    look.insert("filters", filters);
    look.insert("qdiscs", lines(netns.command("tc qdisc show")?));
    look.insert("programs", programs(netns)?);
    look.insert("bpffs", files(home)?);
    Ok(Look(look))
}

/// Programs on devices, but ours on our interface.
fn programs(netns: &Netns) -> Result<Vec<String>> {
    let shown: Value = serde_json::from_str(&netns.command("bpftool -j net show")?)?;
    let mut programs = Vec::new();
    for kind in ["xdp", "tc"] {
        for program in shown[0][kind].as_array().context("bpftool net")? {
            let ours = program["devname"] == INTERFACE
                && program["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("dz_"));
            if !ours {
                let device = program["devname"].as_str().unwrap_or_default();
                programs.push(format!("dev {device} : {program}"));
            }
        }
    }
    Ok(programs)
}

/// Files of other people's beside our pin directory and in it. A pin cannot change what it pins, so
/// that the inode is the object.
fn files(home: &Home) -> Result<Vec<String>> {
    let parent = home.pin_dir().parent().context("no parent")?;
    let mut files = Vec::new();
    let mut folders = vec![parent.to_owned()];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(&folder)?.flatten() {
            let (path, name) = (file.path(), file.file_name());
            let name = name.to_string_lossy();
            let within = folder == home.pin_dir();
            let ours = ["dz_", "link_tc_", "link_xdp", "gate_"];
            if within && ours.iter().any(|start| name.starts_with(start)) {
                continue;
            }
            let meta = file.metadata()?;
            if meta.is_dir() {
                folders.push(path.clone());
            }
            if path != home.pin_dir() {
                let (inode, mode, uid) = (meta.ino(), meta.mode(), meta.uid());
                files.push(format!(
                    "{} {inode} {mode:o} {uid} {:?}",
                    path.display(),
                    meta.modified()?
                ));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Pins of other people's beside our pin directory and in it.
pub(crate) fn pins(home: &Home) -> Result<()> {
    let parent = home.pin_dir().parent().context("no parent")?;
    for folder in [
        parent.join("theirs"),
        home.pin_dir().to_owned(),
        home.pin_dir().join("sub"),
    ] {
        fs::create_dir_all(&folder)?;
        // Names that look like ours at first sight only.
        for name in ["map", "peers", "link_eth0", "link_tcx_doublezero0", "dzmap"] {
            map(&folder.join(name))?;
        }
    }
    map(&parent.join("dz_sessions"))
}

fn map(pin: &Path) -> Result<()> {
    let map = Array::<_, u32>::create(1, 0)?;
    map.pin(pin).with_context(|| pin.display().to_string())
}
