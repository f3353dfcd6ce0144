//! Taking over from a version with another map layout: a thousand peers do not notice that either.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home, program};
use dz_tests::attached::programs;
use dz_tests::bed::INTERFACE;
use dz_tests::bpftool;
use dz_tests::harness::Test;
use dz_tests::rights;
use dz_tests::wait::eventually;

use crate::crowd::{Crowd, PATIENCE};
use crate::layout_1::{self, Layout, Served};
use crate::layout_4;
use crate::needs::NEEDS;
use crate::unnoticed::attached;
use crate::witness::{Seen, Witness};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("upgrade::from_layout_1", &NEEDS, || {
            unnoticed(&layout_1::LAYOUT)
        }),
        Test::new("upgrade::from_layout_4", &NEEDS, || {
            unnoticed(&layout_4::LAYOUT)
        }),
        Test::new("upgrade::kept_types", &NEEDS, kept_types),
        Test::new("upgrade::later_layout", &NEEDS, || {
            refused(
                |home| layout_1::set_layout(home, 1_000),
                "layout 1000 found",
            )
        }),
        Test::new("upgrade::unreadable_map", &NEEDS, || {
            refused(replace_map, "dz_peers: a map of another kind")
        }),
        Test::new("upgrade::unreadable_value", &NEEDS, unreadable_value),
    ]
}

/// Crowds with a kernel part of layout 1 opposite, all Up, and their routes.
pub(crate) fn earlier(crowds: &[&Crowd], home: &Home) -> Result<()> {
    earlier_of(&layout_1::LAYOUT, crowds, home)
}

/// The same of any layout.
fn earlier_of(layout: &Layout, crowds: &[&Crowd], home: &Home) -> Result<()> {
    let served = |crowd: &&Crowd| Served {
        interface: crowd.interface,
        local: crowd.local,
        peers: crowd.addresses().collect(),
    };
    let served: Vec<_> = crowds.iter().map(served).collect();
    let here = &crowds.first().context("no crowd")?.bed.here;
    (layout.leave)(home, here, &served)?;
    for crowd in crowds {
        for peer in crowd.addresses() {
            crowd.peers.add_session(peer);
        }
    }
    eventually(PATIENCE, "all Up at both ends", || {
        let ours = (layout.seen)(home)?;
        let up = ours.values().filter(|ours| ours.up).count();
        let theirs = crowds.iter().flat_map(|crowd| crowd.peers.sessions());
        let theirs_up = theirs.filter(|theirs| theirs.session.state == State::Up);
        let theirs_up = theirs_up.count();
        ensure!(
            up == ours.len() && theirs_up == up,
            "{up} and {theirs_up} of {}",
            ours.len()
        );
        anyhow::Ok(())
    })?;
    // As its agent would have installed them.
    let mut batch = String::new();
    for served in &served {
        let Served {
            interface, local, ..
        } = served;
        for peer in &served.peers {
            writeln!(
                batch,
                "route add {peer}/32 dev {interface} proto 144 scope link src {local}"
            )?;
        }
    }
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(batch.as_bytes())?;
    here.ip(&format!("-batch {}", file.path().display()))?;
    Ok(())
}

fn unnoticed(layout: &Layout) -> Result<()> {
    let crowd = Crowd::new("upgrade")?;
    let home = Home::new()?;
    earlier_of(layout, &[&crowd], &home)?;
    let witness = Witness::new(&crowd, (layout.seen)(&home)?)?;
    let (link, maps) = (attached(&crowd, &home)?, maps(&home)?);
    let answered = counted(&home)?;
    let mut agent = crowd.start(home)?;
    for line in agent.process().log().lines() {
        if line.contains("upgrade") {
            println!("{line}");
        }
    }
    let home = agent.home();
    let now = attached(&crowd, home)?;
    ensure!(
        now.link == link.link && now.program != link.program,
        "{now:?}"
    );
    witness.until_heard(home, 5)?;
    witness.until_answered(5)?;
    let sessions = crate::witness::seen(home)?;
    let all: u64 = sessions
        .values()
        .map(|Seen { answered, .. }| answered)
        .sum();
    ensure!(all > 0);
    witness.nothing_happened(home)?;
    ensure!(counted(home)? > answered, "counters start anew");
    // The gate as well.
    ensure!(programs(&crowd.bed.here, INTERFACE)? == 2);
    let left: Vec<_> = fs::read_dir(home.pin_dir())?.flatten().collect();
    let folders = left.iter().filter(|file| file.path().is_dir());
    ensure!(folders.count() == 0, "{left:?}");
    // The kernel frees maps a moment after their last user is gone.
    eventually(PATIENCE, "no old map", || {
        let exists = |id: &&u64| bpftool::json(&["map", "show", "id", &id.to_string()]).is_ok();
        let left: Vec<_> = maps.iter().filter(exists).collect();
        ensure!(left.is_empty(), "{left:?}");
        anyhow::Ok(())
    })
}

/// With the unit's capabilities alone the kernel does not tell the types of the old maps; a file does, if their version has
/// left one.
fn kept_types() -> Result<()> {
    let crowd = Crowd::with("kept", 20)?;
    let home = Home::new()?;
    earlier_of(&layout_4::LAYOUT, &[&crowd], &home)?;
    let witness = Witness::new(&crowd, (layout_4::LAYOUT.seen)(&home)?)?;
    let link = attached(&crowd, &home)?;
    let here = &crowd.bed.here;
    let start = |home| Agent::spawn_by(&rights::UNIT, home, here, &["--interface", INTERFACE]);
    let mut agent = start(home)?;
    let status = agent.process().wait()?;
    let said = agent.process().log();
    let home = agent.crash()?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(said.contains("run `dz-agent prepare` as root"), "{said}");
    ensure!(attached(&crowd, &home)? == link, "another program");

    fs::write(home.state_dir().join("layout-4.btf"), layout_4::types()?)?;
    let mut agent = start(home)?;
    agent.wait_ready()?;
    let capabilities = fs::read_to_string(format!("/proc/{}/status", agent.process().pid()))?;
    ensure!(
        capabilities.contains("CapEff:\t000000c000001000"),
        "{capabilities}"
    );
    let now = attached(&crowd, agent.home())?;
    ensure!(
        now.link == link.link && now.program != link.program,
        "{now:?}"
    );
    witness.until_heard(agent.home(), 5)?;
    witness.nothing_happened(agent.home()).map(|_| ())
}

/// Kernel ids of the pinned maps.
fn maps(home: &Home) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for file in fs::read_dir(home.pin_dir())?.flatten() {
        if file.file_name().to_string_lossy().starts_with("dz_") {
            let pin = file.path();
            let shown = bpftool::json(&["map", "show", "pinned", &pin.to_string_lossy()])?;
            ids.push(shown["id"].as_u64().context("a map without an id")?);
        }
    }
    ensure!(ids.len() >= 10, "{ids:?}");
    Ok(ids)
}

/// How many packets were answered, in maps of any layout.
fn counted(home: &Home) -> Result<u64> {
    let dumped = bpftool::dump(&home.pin_dir().join("dz_counters"))?;
    let values = dumped.iter().filter_map(|block| block["values"].as_array());
    let counts = values.flatten().map(|cpu| &cpu["value"]["rx_answered"]);
    counts
        .map(|count| count.as_u64().with_context(|| format!("{count}")))
        .sum()
}

/// What cannot be taken over goes on as it was; the refusal is one line.
fn refused(spoil: impl FnOnce(&Home) -> Result<()>, why: &str) -> Result<()> {
    const PEERS: u16 = 20;
    let crowd = Crowd::with("refused", PEERS)?;
    let home = Home::new()?;
    earlier(&[&crowd], &home)?;
    spoil(&home)?;
    let (link, maps, pins) = (attached(&crowd, &home)?, maps(&home)?, pins(&home)?);
    let mut agent = Agent::spawn_in(home, &crowd.bed.here, &["--interface", INTERFACE])?;
    let status = agent.process().wait()?;
    let home = agent.crash()?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(attached(&crowd, &home)? == link, "another program");
    ensure!(self::maps(&home)? == maps && self::pins(&home)? == pins);
    ensure!(crowd.routes()? == usize::from(PEERS));
    let said = agent_run(&home, &crowd)?;
    let mut lines = said.lines().filter(|line| !line.contains(" WARN "));
    let line = lines.next().unwrap_or_default();
    ensure!(
        line.contains(why) && line.contains("purge") && lines.next().is_none(),
        "{said}"
    );
    // It answers still; all but the one that may have been spoiled.
    let before = crowd.peers.sessions();
    eventually(PATIENCE, "answers", || {
        let now = crowd.peers.sessions();
        let more = before.iter().zip(&now);
        let more = more.filter(|(before, now)| now.received > before.received + 2);
        ensure!(more.count() + 1 >= before.len(), "not yet");
        anyhow::Ok(())
    })
}

/// A session that this version cannot read is left behind alone; its peer gets another one.
fn unreadable_value() -> Result<()> {
    const PEERS: u16 = 20;
    let crowd = Crowd::with("value", PEERS)?;
    let home = Home::new()?;
    earlier(&[&crowd], &home)?;
    layout_1::spoil_mode(&home)?;
    let agent = Agent::start_in(home, &crowd.bed.here, &["--interface", INTERFACE])?;
    eventually(PATIENCE, "all sessions Up", || {
        let sessions = agent.get("/v1/sessions")?;
        let all = sessions["sessions"].as_array().cloned().unwrap_or_default();
        let up = all.iter().filter(|session| session["state"] == "up");
        let up = up.count();
        ensure!(up == usize::from(PEERS), "{up}");
        anyhow::Ok(())
    })
}

/// What it says when it is started once more.
fn agent_run(home: &Home, crowd: &Crowd) -> Result<String> {
    let mut command = Command::new(program()?);
    command.arg("--socket").arg(home.socket()).arg("run");
    command.args(["--interface", INTERFACE, "--log-level", "warn"]);
    command.arg("--pin-dir").arg(home.pin_dir());
    command.arg("--state-dir").arg(home.state_dir());
    let output = crowd.bed.here.output(&mut command)?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A map under a name that is another one's.
fn replace_map(home: &Home) -> Result<()> {
    let pins = home.pin_dir();
    fs::remove_file(pins.join("dz_peers"))?;
    Ok(MapData::from_pin(pins.join("dz_heartbeat"))?.pin(pins.join("dz_peers"))?)
}

fn pins(home: &Home) -> Result<Vec<String>> {
    let files = fs::read_dir(home.pin_dir())?.flatten();
    let mut names: Vec<_> = files
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}
