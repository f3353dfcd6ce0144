//! A start that fails: whatever an earlier agent has left is as it was, and nothing is there that was not.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_agent::datapath::{MAPS, MapReader};
use dz_tests::agent::{Home, program};
use dz_tests::attached;
use dz_tests::bed::{self, Bed, INTERFACE};
use dz_tests::bpftool;
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::seccomp::{self, BpfCommand};
use dz_tests::tun::Tun;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;
use nix::errno::Errno;

use crate::scene::{INTERVAL_MS, NEEDS_TCX, Scene, start, until_up};

const OTHER: &str = "doublezero1";

/// Why a start fails.
#[derive(Clone, Copy)]
enum Why {
    /// The last of its interfaces cannot be served.
    Loopback,
    /// There is something else in the place of the API's socket.
    NoSocket,
    /// The kernel has no memory for a command of bpf(2).
    Without(BpfCommand),
    /// It has none for a program that is to be swapped, when maps of another size are there to take over to.
    OtherSize,
}

pub(crate) fn tests() -> Vec<Test> {
    let whys = [
        ("loopback", Why::Loopback),
        ("no_socket", Why::NoSocket),
        ("no_program", Why::Without(BpfCommand::ProgLoad)),
        ("no_pin_opened", Why::Without(BpfCommand::ObjGet)),
        ("no_facts", Why::Without(BpfCommand::ObjGetInfo)),
        ("no_timer", Why::Without(BpfCommand::ProgTestRun)),
        ("no_query", Why::Without(BpfCommand::ProgQuery)),
        ("no_new_pin", Why::Without(BpfCommand::ObjPin)),
        ("no_new_link", Why::Without(BpfCommand::LinkCreate)),
    ];
    let mut tests = Vec::new();
    for (name, why) in whys {
        let first_of = format!("failing::first_{name}");
        tests.push(Test::new(first_of, &NEEDS_TCX, move || first(why)));
        let next_of = format!("failing::next_{name}");
        tests.push(Test::new(next_of, &NEEDS_TCX, move || next(why)));
    }
    tests.push(Test::new("failing::after_ready", &NEEDS_TCX, after_ready));
    // Only a takeover swaps programs.
    tests.push(Test::new("failing::next_no_swap", &NEEDS_TCX, || {
        next(Why::Without(BpfCommand::LinkUpdate))
    }));
    tests.push(Test::new("failing::next_other_size", &NEEDS_TCX, || {
        next(Why::OtherSize)
    }));
    tests
}

/// Everything that a start may have changed.
#[derive(Debug, PartialEq)]
struct State {
    /// Pins with the kernel ids behind them.
    pins: Vec<(String, String)>,
    settings: String,
    heartbeat_ns: u64,
    programs: [u32; 2],
    routes: String,
}

impl State {
    fn of(home: &Home, netns: &Netns) -> Result<Self> {
        let mut pins = Vec::new();
        for file in fs::read_dir(home.pin_dir())? {
            let path = file?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let kind = if MAPS.contains(&name.as_ref()) {
                "map"
            } else {
                "link"
            };
            let shown = bpftool::json(&[kind, "show", "pinned", &path.to_string_lossy()])?;
            let ids = format!("{kind} {} of {}", shown["id"], shown["ifindex"]);
            pins.push((name.into_owned(), ids));
        }
        pins.sort();
        Ok(Self {
            pins,
            settings: format!("{:?}", bpftool::dump(&home.pin_dir().join("dz_config"))?),
            heartbeat_ns: MapReader::from_pins(home.pin_dir())?.heartbeat()?,
            programs: [
                attached::programs(netns, INTERFACE)?,
                attached::programs(netns, OTHER)?,
            ],
            routes: netns.ip("route show proto 144")?,
        })
    }
}

/// The first start on this host fails: nothing is left.
fn first(why: Why) -> Result<()> {
    let netns = Netns::new("first")?;
    let _one = Tun::new(&netns, INTERFACE, &["169.254.7.0/31"])?;
    let _other = Tun::new(&netns, OTHER, &["169.254.8.0/31"])?;
    let home = Home::nested()?;
    fails(&home, &netns, why)?;
    ensure!(!home.pin_dir().exists(), "the pin directory is left");
    ensure!(!home.socket().exists(), "the socket is left");
    attached::until(&netns, INTERFACE, 0)?;
    attached::until(&netns, OTHER, 0)
}

/// A start fails that was to take over: what is there serves as before, and the next start takes it over.
fn next(why: Why) -> Result<()> {
    let scene = Scene::new("next")?;
    let here = &scene.bed.here;
    let _other = Tun::new(here, OTHER, &["169.254.8.0/31"])?;
    let home = scene.agent.crash()?;
    let before = State::of(&home, here)?;
    ensure!(
        before.programs == [2, 0] && !before.routes.is_empty(),
        "{before:?}"
    );
    fails(&home, here, why)?;
    attached::until(here, OTHER, 0)?;
    let after = State::of(&home, here)?;
    ensure!(before == after, "before: {before:?}\nafter: {after:?}");
    until_up(&start(home, &scene.bed)?)
}

/// The first agent since boot fails when it is ready: it leaves what a crash leaves, and the next start goes on.
fn after_ready() -> Result<()> {
    let bed = Bed::new("ready", Duration::ZERO)?;
    let mut agent = bed.agent_with_faults(INTERVAL_MS)?;
    let _peer = bed.patient_peer(Rules::Deployed, INTERVAL_MS)?;
    bed::connect(&agent)?;
    until_up(&agent)?;
    let maps = || fs::read_dir(agent.home().pin_dir()).map(Iterator::count);
    let (before, routes) = (maps()?, bed.here.ip("route show proto 144")?);
    agent.home().faults()?.fail_loop(Errno::EIO)?;
    let status = agent.process().wait()?;
    ensure!(status.code() == Some(1), "{status}");
    let home = agent.crash()?;
    home.faults()?.clear()?;
    ensure!(
        fs::read_dir(home.pin_dir())?.count() == before,
        "pins are gone"
    );
    ensure!(attached::programs(&bed.here, INTERFACE)? == 2);
    ensure!(bed.here.ip("route show proto 144")? == routes && !routes.is_empty());
    until_up(&start(home, &bed)?)
}

/// Runs an agent on both interfaces to its end, which is to come soon, and with a line that says why.
fn fails(home: &Home, netns: &Netns, why: Why) -> Result<()> {
    let mut command = Command::new(program()?);
    command.arg("--socket").arg(home.socket()).arg("run");
    command.arg("--pin-dir").arg(home.pin_dir());
    command.arg("--state-dir").arg(home.state_dir());
    command.args(["--interface", INTERFACE, "--interface", OTHER]);
    // Whatever is written before it fails, these would be other settings.
    command.args(["--port", "44999", "--ttl", "77", "--route-protocol", "150"]);
    // A dead agent's is there otherwise.
    let _ = fs::remove_file(home.socket());
    match why {
        Why::Loopback => {
            command.args(["--interface", "lo"]);
        }
        Why::NoSocket => fs::create_dir(home.socket())?,
        Why::Without(refused) => {
            seccomp::without_memory_for(&mut command, refused);
        }
        Why::OtherSize => {
            command.args(["--max-sessions", "2048"]);
            seccomp::without_memory_for(&mut command, BpfCommand::LinkUpdate);
        }
    }
    let output = ended(netns, &mut command)?;
    if matches!(why, Why::NoSocket) {
        fs::remove_dir(home.socket())?;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    ensure!(
        code.is_some_and(|code| (1..10).contains(&code)),
        "{}: {said}",
        output.status
    );
    let last = said.lines().last().unwrap_or_default();
    println!("{}: {last}", output.status);
    ensure!(last.starts_with("dz-agent: "), "no line: {said}");
    Ok(())
}

fn ended(netns: &Netns, command: &mut Command) -> Result<Output> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = netns.spawn(command)?;
    let ended = eventually(bed::PATIENCE, "the end of a start that fails", || {
        child.try_wait().ok().flatten()
    });
    if ended.is_err() {
        child.kill()?;
    }
    Ok(child.wait_with_output()?)
}
