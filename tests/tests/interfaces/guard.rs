//! The liveness port is a courtesy: whoever has it, interfaces are served, and it is taken when it is
//! free.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::host::port::PortGuard;
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE};
use dz_tests::harness::{Requirement, Test};
use dz_tests::netns::Netns;
use dz_tests::process::Process;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Uid, setfsuid};
use serde_json::Value;

use crate::scene::NEEDS;

const PORT: u16 = 44880;
const INTERVAL_MS: u32 = 100;
/// A user who is not root.
const NOBODY: u32 = 65_534;
const ADDRESS: [&str; 1] = ["169.254.7.0/31"];
const ON_TUN: [&str; 2] = ["--interface", INTERFACE];
/// Two full checks, ten seconds apart, and a machine that may be busy.
const NEXT_CHECKS: Duration = Duration::from_secs(60);
/// What the log says once for each holder.
const WITHOUT: &str = "served without the port guard";
/// What the deployed client's daemon is to be run with beside us.
const FLAGS: &str = "-route-liveness-enable-passive=false -route-liveness-enable-active=false";

pub(super) fn tests() -> Vec<Test> {
    let setpriv = [NEEDS[0], NEEDS[1], Requirement::Tool("setpriv")];
    vec![
        Test::new("guard::taken_at_start", &NEEDS, taken_at_start),
        Test::new("guard::taken_on_the_device", &NEEDS, taken_on_the_device),
        Test::new("guard::taken_over_ipv6", &NEEDS, taken_over_ipv6),
        Test::new("guard::taken_before_it_came", &NEEDS, taken_before_it_came),
        Test::new("guard::created_anew", &NEEDS, created_anew),
        Test::new("guard::by_doublezerod", &NEEDS, by_doublezerod),
        Test::new("guard::by_somebody_unseen", &setpriv, by_somebody_unseen),
        Test::new("guard::another_holder", &NEEDS, another_holder),
        Test::new("guard::left_to_others", &NEEDS, left_to_others),
    ]
}

fn interface(agent: &Agent) -> Result<Value> {
    Ok(agent.get("/v1/status")?["interfaces"][0].clone())
}

/// Waits until the interface is served, and the agent says this of its port.
fn until(agent: &Agent, guard: &str) -> Result<Value> {
    eventually(NEXT_CHECKS, &format!("the port {guard}"), || {
        let shown = interface(agent)?;
        // A device is there a moment before it is up.
        ensure!(
            shown["port_guard"] == guard && shown["waiting"].is_null(),
            "{shown}"
        );
        anyhow::Ok(shown)
    })
}

/// The interface is served, without the port, for which these words are the reason.
fn missing(agent: &mut Agent, words: &[&str]) -> Result<()> {
    let shown = until(agent, "missing")?;
    let reason = shown["port_guard_error"].as_str().context("no reason")?;
    println!("{reason}");
    for word in ["UDP port 44880 is taken by"].iter().chain(words) {
        ensure!(reason.contains(word), "no {word:?} in {reason}");
    }
    let status = agent.cli(&["status"])?;
    let line = format!("{INTERFACE}: {WITHOUT}: {reason}");
    ensure!(status.contains(&line), "{status}");
    eventually(PATIENCE, "the reason in the log", || {
        agent.process().log().contains(reason).then_some(())
    })
}

fn bind(netns: &Netns, address: &str) -> Result<UdpSocket> {
    let bound = netns.run(|| UdpSocket::bind((address, PORT)));
    bound.with_context(|| format!("{address}:{PORT}"))
}

fn is_taken(netns: &Netns) -> Result<()> {
    let error = netns.run(|| PortGuard::bind(INTERFACE, PORT)).err();
    ensure!(error.is_some_and(|error| error.is_taken()), "it is free");
    Ok(())
}

fn us() -> String {
    format!("process {}", std::process::id())
}

/// Sessions come Up all the same; when the port is free it is taken, and both are said once.
fn taken_at_start() -> Result<()> {
    let bed = Bed::new("atstart", Duration::ZERO)?;
    let other = bind(&bed.here, "0.0.0.0")?;
    let mut agent = bed.agent_with(INTERVAL_MS, &bed::PATIENTLY)?;
    missing(&mut agent, &[&us(), "stop that, or give --port-guard off"])?;
    let _peer = bed.patient_peer(Rules::Deployed, INTERVAL_MS)?;
    bed::connect(&agent)?;
    let up = bed::until(agent.home(), State::Up)?;
    // What another check finds is no news.
    let checked = || interface(&agent).map(|shown| shown["port_guard"] == "missing");
    dz_tests::wait::holds(Duration::from_secs(12), "still taken", || {
        ensure!(checked()?);
        anyhow::Ok(())
    })?;
    drop(other);
    until(&agent, "held")?;
    is_taken(&bed.here)?;
    let log = agent.process().log();
    let said = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    ensure!(
        said(WITHOUT) == 1 && said("UDP port is ours now") == 1,
        "{log}"
    );
    let after = bed::entry(agent.home())?;
    ensure!(
        after.session.transitions == up.session.transitions,
        "{up:?}, then {after:?}"
    );
    Ok(())
}

fn taken_on_the_device() -> Result<()> {
    let here = Netns::new("device")?;
    let _tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
    let other = here.run(|| PortGuard::bind(INTERFACE, PORT))?;
    let mut agent = Agent::start(&here, &ON_TUN)?;
    missing(&mut agent, &[&us()])?;
    drop(other);
    until(&agent, "held")?;
    is_taken(&here)
}

fn taken_over_ipv6() -> Result<()> {
    let here = Netns::new("six")?;
    let _tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
    let _other = bind(&here, "::")?;
    let mut agent = Agent::start(&here, &ON_TUN)?;
    missing(&mut agent, &[&us()])
}

/// The agent waits for the interface, and meanwhile somebody takes the port.
fn taken_before_it_came() -> Result<()> {
    let here = Netns::new("before")?;
    let mut agent = Agent::start(&here, &ON_TUN)?;
    ensure!(interface(&agent)?["port_guard"].is_null());
    let _other = bind(&here, "0.0.0.0")?;
    let _tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
    missing(&mut agent, &[&us()])
}

/// The port belongs to the device: with a new one it is taken anew, or found taken.
fn created_anew() -> Result<()> {
    let here = Netns::new("anew")?;
    let tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
    let mut agent = Agent::start(&here, &ON_TUN)?;
    ensure!(interface(&agent)?["port_guard"] == "held");
    let gone = |tun: Tun| {
        drop(tun);
        eventually(PATIENCE, "an agent that waits", || {
            ensure!(interface(&agent)?["port_guard"].is_null());
            anyhow::Ok(())
        })
    };
    gone(tun)?;
    let tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
    until(&agent, "held")?;
    is_taken(&here)?;
    gone(tun)?;
    let _other = bind(&here, "0.0.0.0")?;
    let _tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
    missing(&mut agent, &[&us()])
}

/// A process of this name and user with the port, for as long as the value lives.
fn holder(netns: &Netns, name: &str, user: u32) -> Result<(Process, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    // A process is called what it was started by, not what it is.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sleep = std::env::split_paths(&path)
        .map(|folder| folder.join("sleep"))
        .find(|sleep| sleep.is_file())
        .context("no sleep")?;
    let program = folder.path().join(name);
    symlink(sleep, &program)?;
    let socket = netns.run(|| {
        // A socket belongs to whom its thread is for files when it is made; this thread ends here.
        setfsuid(Uid::from_raw(user));
        bind(netns, "0.0.0.0")
    })?;
    let mut command = Command::new(&program);
    command.arg0("sleep").arg("600").uid(user);
    let fd = socket.as_raw_fd();
    // SAFETY: between fork and exec, where only this one system call is made.
    unsafe {
        command.pre_exec(move || {
            let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    let process = Process::spawn(netns, &mut command, name.to_owned())?;
    Ok((process, folder))
}

fn by_doublezerod() -> Result<()> {
    let here = Netns::new("daemon")?;
    let _tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
    let (process, _folder) = holder(&here, "doublezerod", 0)?;
    let mut agent = Agent::start(&here, &ON_TUN)?;
    let named = format!("process {} (doublezerod)", process.pid());
    missing(&mut agent, &[&named, FLAGS])?;
    drop(process);
    until(&agent, "held")?;
    Ok(())
}

/// An agent as the unit runs it: without the privilege to look into other users' processes, and
/// `doublezerod` is one.
fn by_somebody_unseen() -> Result<()> {
    let here = Netns::new("unseen")?;
    let _tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
    let wrapper = [
        "setpriv",
        "--bounding-set=-sys_ptrace",
        "--inh-caps=-sys_ptrace",
    ];
    let (process, folder) = holder(&here, "somebody", NOBODY)?;
    let mut agent = Agent::start_by(&wrapper, &here, &ON_TUN)?;
    missing(&mut agent, &["a process of user 65534 that is not visible"])?;
    drop((process, folder, agent));

    let (process, _folder) = holder(&here, "doublezerod", NOBODY)?;
    let mut agent = Agent::start_by(&wrapper, &here, &ON_TUN)?;
    let named = format!("process {} (doublezerod), most likely", process.pid());
    missing(&mut agent, &[&named, FLAGS])
}

/// When another process takes the port in the first one's place, it is named.
fn another_holder() -> Result<()> {
    let here = Netns::new("another")?;
    let _tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
    let (first, _folder) = holder(&here, "first", 0)?;
    let mut agent = Agent::start(&here, &ON_TUN)?;
    missing(&mut agent, &["(first)"])?;
    agent.process().freeze()?;
    drop(first);
    let (_second, _folder) = holder(&here, "second", 0)?;
    agent.process().signal(nix::sys::signal::Signal::SIGCONT)?;
    eventually(NEXT_CHECKS, "the other holder", || {
        let shown = interface(&agent)?;
        let reason = shown["port_guard_error"].as_str().unwrap_or_default();
        ensure!(reason.contains("(second)"), "{shown}");
        anyhow::Ok(())
    })
}

/// Nothing is taken, and nothing said of who has it.
fn left_to_others() -> Result<()> {
    for option in [["--port-guard", "off"], ["--unknown", "pass"]] {
        let here = Netns::new("off")?;
        let _tun = Tun::new(&here, INTERFACE, &ADDRESS)?;
        let arguments = [&ON_TUN[..], &option].concat();
        let mut agent = Agent::start_in(Home::new()?, &here, &arguments)?;
        ensure!(interface(&agent)?["port_guard"] == "off", "{option:?}");
        let shown = agent.cli(&["status"])?;
        ensure!(
            shown.contains("UDP port 44880 is left to others"),
            "{shown}"
        );
        let bound = here.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)));
        ensure!(bound.is_ok(), "{option:?}: {bound:?}");
        ensure!(!agent.process().log().contains(WITHOUT));
    }
    Ok(())
}
