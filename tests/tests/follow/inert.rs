//! What does nothing, or not what its owner may expect, says so: in the log, in `sessions`, `status` and
//! the metrics.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::map::SessionEntry;
use dz_common::packet::State;
use dz_tests::bed::{HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::{eventually, holds};

use crate::scene::{NEEDS, PEERS, Scene};

/// The part of the log line of a route that stays.
const STAYS: &str = "route_stays=\"";

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("inert::routes_stay", &NEEDS, routes_stay),
        Test::new("inert::others_route_stays", &NEEDS, others_route_stays),
        Test::new("inert::not_followed", &NEEDS, not_followed),
        Test::new("inert::parked", &NEEDS, parked),
        Test::new("inert::left", &NEEDS, left),
    ]
}

/// A family of gauges, by its one label.
fn gauges(scene: &Scene, family: &str) -> Result<BTreeMap<String, u64>> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--fail", "--unix-socket"]);
    command.arg(scene.agent.home().socket());
    let output = command.arg("http://localhost/metrics").output()?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let start = format!("doublezero_liveness_{family}{{reason=\"");
    let mut values = BTreeMap::new();
    for row in text.lines().filter_map(|line| line.strip_prefix(&start)) {
        let (reason, value) = row.split_once("\"} ").context("no value")?;
        ensure!(
            values.insert(reason.to_owned(), value.parse()?).is_none(),
            "{reason} twice"
        );
    }
    ensure!(!values.is_empty(), "no {family}");
    Ok(values)
}

/// Waits until the counts are these, and all others 0: in the metrics, and under a name in the API.
fn until_counted(scene: &Scene, family: &str, name: &str, wanted: &[(&str, u64)]) -> Result<()> {
    let wanted: BTreeMap<String, u64> = wanted
        .iter()
        .map(|(reason, count)| ((*reason).to_owned(), *count))
        .collect();
    eventually(PATIENCE, &format!("{family}: {wanted:?}"), || {
        let mut counted = gauges(scene, family)?;
        counted.retain(|_, count| *count != 0);
        ensure!(counted == wanted, "metrics: {counted:?}");
        for path in ["/v1/sessions", "/v1/status"] {
            let shown = scene.agent.get(path)?;
            ensure!(
                shown[name] == serde_json::to_value(&wanted)?,
                "{path}: {}",
                shown[name]
            );
        }
        anyhow::Ok(())
    })
}

/// Three sessions go down; the log says of each why its route stays, and the sum is shown.
fn routes_stay() -> Result<()> {
    let [passive, followed, ours] = PEERS;
    let arguments = ["--follow", "proto=bgp", "--override", "10.9.0.3 passive"];
    let mut scene = Scene::new("inert", &arguments)?;
    scene.make_passive(passive)?;
    for peer in [passive, followed] {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    let here = HERE.to_string();
    scene
        .agent
        .cli(&["connect", &ours.to_string(), "--local", &here])?;
    scene.until_up(&[(passive, HERE), (followed, HERE), (ours, HERE)])?;
    let counts = [("peer_passive", 1), ("followed", 1), ("own_passive", 1)];
    until_counted(&scene, "untouched_routes", "untouched", &counts)?;
    for command in ["sessions", "status"] {
        let shown = scene.agent.cli(&[command])?;
        ensure!(
            shown.contains(
                "1 (the peer says that it is passive: --peer-passive ignore changes that)"
            ),
            "{shown}"
        );
    }
    ensure!(
        !scene.agent.process().log().contains(STAYS),
        "nothing has gone down"
    );
    until_said(&mut scene, passive, "--peer-passive ignore")?;
    until_said(&mut scene, followed, "--when-down")?;
    until_said(&mut scene, ours, "our own mode is passive")
}

/// Takes a peer down, and waits until the log says why its route stays.
fn until_said(scene: &mut Scene, peer: Ipv4Addr, why: &str) -> Result<()> {
    scene.peer(peer)?.silence();
    eventually(PATIENCE, &format!("{peer}: {why}"), || {
        let log = scene.agent.process().log();
        let line = log
            .lines()
            .rfind(|line| line.contains(&format!("peer={peer} ")) && line.contains("to=\"down\""));
        let line = line.context("not down yet")?;
        ensure!(line.contains(STAYS) && line.contains(why), "{line}");
        anyhow::Ok(())
    })
}

/// Where somebody else's route is in the place of ours, a Down withdraws nothing; the next one, with our
/// route there, says nothing of the kind.
fn others_route_stays() -> Result<()> {
    let mut scene = Scene::new("inert", &[])?;
    let [foreign, plain, _] = PEERS;
    scene.route(&format!("add {foreign} dev {INTERFACE} proto static"))?;
    let here = HERE.to_string();
    for peer in [foreign, plain] {
        scene
            .agent
            .cli(&["connect", &peer.to_string(), "--local", &here])?;
    }
    scene.until_up(&[(foreign, HERE), (plain, HERE)])?;
    until_counted(&scene, "untouched_routes", "untouched", &[("foreign", 1)])?;
    until_said(&mut scene, foreign, "somebody else's route")?;
    until_counted(&scene, "untouched_routes", "untouched", &[])?;
    scene.peer(plain)?.silence();
    scene.logged(&format!("peer={plain} from=\"up\" to=\"down\""))?;
    let log = scene.agent.process().log();
    let plain = format!("peer={plain} ");
    let said = log
        .lines()
        .any(|line| line.contains(&plain) && line.contains(STAYS));
    ensure!(!said, "{log}");
    Ok(())
}

/// Routes that the conditions meet and that cannot be followed are named once and counted, also by an
/// agent that comes later; they are counted no more when they go.
fn not_followed() -> Result<()> {
    const FOLLOW: [&str; 2] = ["--follow", "proto=bgp"];
    let mut scene = Scene::new("inert", &FOLLOW)?;
    let [first, second, third] = PEERS;
    let here = &scene.bed.here;
    here.run(|| std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0"))?;
    here.ip(&format!("nexthop add id 7 dev {INTERFACE}"))?;
    let counted = [
        format!(
            "{first} proto bgp nexthop via 169.254.7.1 dev {INTERFACE} nexthop dev {INTERFACE}"
        ),
        format!("{second} dev {INTERFACE} proto bgp tos 0x10"),
        format!("10.9.1.0/31 dev {INTERFACE} proto bgp"),
        format!("10.9.2.0/24 dev {INTERFACE} proto bgp metric 5"),
        format!("224.0.0.5 dev {INTERFACE} proto bgp"),
        format!("broadcast {third} dev {INTERFACE} proto bgp table main"),
        "unreachable 10.9.3.2 proto bgp".to_owned(),
    ];
    let others = [
        "10.9.3.1 dev lo proto bgp".to_owned(),
        "10.9.3.0/24 dev lo proto bgp".to_owned(),
        format!("10.9.4.0/24 dev {INTERFACE} proto bird"),
        format!("10.9.5.0/24 dev {INTERFACE} proto bgp table 7"),
        "blackhole 10.9.3.0/25 proto bgp".to_owned(),
        "blackhole 10.9.3.3 proto static".to_owned(),
    ];
    for route in counted.iter().chain(&others) {
        scene.route(&format!("add {route}"))?;
    }
    let mut wanted = vec![
        ("several_next_hops", 1),
        ("tos", 1),
        ("shorter_prefix", 2),
        ("not_a_host", 1),
        ("not_unicast", 2),
    ];
    let family = "followed_routes_passed_over";
    until_counted(&scene, family, "passed_over", &wanted)?;
    // What only names a next hop object is known to be by our interface once the kernel is asked.
    scene.route("add 10.9.6.1 nhid 7 proto bgp")?;
    scene.full_check()?;
    wanted.push(("next_hop_object", 1));
    until_counted(&scene, family, "passed_over", &wanted)?;
    let shown = scene.agent.cli(&["sessions"])?;
    ensure!(shown.contains("2 (prefix shorter than /32)"), "{shown}");
    // Replaced by the like, and read again: not said again.
    scene.route(&format!("replace {}", counted[0]))?;
    scene.full_check()?;
    until_counted(&scene, family, "passed_over", &wanted)?;
    let said = |scene: &mut Scene| {
        let log = scene.agent.process().log();
        let lines = log
            .lines()
            .filter(|line| line.contains("route not followed"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    scene.logged("reason=\"next_hop_object\"")?;
    let lines = said(&mut scene);
    ensure!(lines.len() == 8, "{lines:#?}");
    // One that takes its place is followed.
    scene.route(&format!(
        "replace {first} dev {INTERFACE} proto bgp src {HERE}"
    ))?;
    scene.until_followed(&[first])?;
    wanted.remove(0);
    until_counted(&scene, family, "passed_over", &wanted)?;
    // And the other way round.
    scene.route(&format!("replace {}", counted[0]))?;
    scene.until_followed(&[])?;
    wanted.push(("several_next_hops", 1));
    until_counted(&scene, family, "passed_over", &wanted)?;

    let mut scene = scene.again(Scene::left_alone, &FOLLOW)?;
    until_counted(&scene, family, "passed_over", &wanted)?;
    eventually(PATIENCE, "said by the next one", || {
        let lines = said(&mut scene);
        ensure!(lines.len() == 8, "{lines:#?}");
        anyhow::Ok(())
    })?;
    for route in &counted {
        scene.route(&format!("delete {route}"))?;
    }
    scene.route("delete 10.9.6.1 nhid 7 proto bgp")?;
    until_counted(&scene, family, "passed_over", &[])
}

/// Peers without a session are counted by what stands against it.
fn parked() -> Result<()> {
    let scene = Scene::new("inert", &[])?;
    let [first, ..] = PEERS;
    let here = HERE.to_string();
    scene
        .agent
        .cli(&["connect", &first.to_string(), "--local", &here])?;
    scene.until_up(&[(first, HERE)])?;
    let counted =
        |wanted: &[(&str, u64)]| until_counted(&scene, "parked_peers", "parked_reasons", wanted);
    counted(&[])?;
    let ours = &scene.bed.here;
    ours.ip(&format!("link set {INTERFACE} down"))?;
    counted(&[("interface_down", 1)])?;
    let shown = scene.agent.cli(&["status"])?;
    let line = "peers without a session: 1 (interface is down)";
    ensure!(shown.contains(line), "{shown}");
    ours.ip(&format!("link set {INTERFACE} up"))?;
    counted(&[])?;
    ours.ip(&format!("address flush dev {INTERFACE} to {HERE}"))?;
    counted(&[("address_missing", 1)])?;
    ours.ip(&format!("address add {HERE}/31 dev {INTERFACE}"))?;
    counted(&[])
}

/// A followed peer that is long silent is shown apart and spoken to seldom; its first packet brings it
/// back.
fn left() -> Result<()> {
    let arguments = ["--follow", "proto=bgp", "--backoff-cap", "200ms"];
    let scene = Scene::with_faults("inert", &arguments)?;
    let [gone, stays, ..] = PEERS;
    for peer in [gone, stays] {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    scene.until_up(&[(gone, HERE), (stays, HERE)])?;
    let faults = scene.agent.home().faults()?;
    let far_end = scene.peer(gone)?;
    far_end.silence();
    let entry = || -> Result<SessionEntry> {
        let entries = scene.entries()?;
        let entry = entries
            .into_iter()
            .find(|entry| entry.key.peer == gone.octets());
        entry.context("no session")
    };
    // Down, and spoken to each back-off cap.
    eventually(PATIENCE, "five packets while Down", || {
        let entry = entry()?;
        let since = entry.session.since_ns;
        ensure!(entry.session.state == State::Down, "{entry:?}");
        let spoken = entry.session.last_tx_ns.saturating_sub(since);
        ensure!(spoken > 1_000_000_000, "{entry:?}");
        anyhow::Ok(())
    })?;
    let shown = scene.agent.cli(&["sessions"])?;
    ensure!(shown.contains(&gone.to_string()), "{shown}");
    faults.leave_after(Duration::from_secs(1))?;
    scene.full_check()?;
    let shown = scene.agent.cli(&["sessions"])?;
    ensure!(shown.contains("peers that have left: 1 ("), "{shown}");
    ensure!(!shown.contains(&gone.to_string()), "{shown}");
    let all = scene.agent.cli(&["sessions", "--all"])?;
    let at = |peer| all.find(&format!(" {peer} "));
    ensure!(at(stays).is_some() && at(stays) < at(gone), "{all}");
    ensure!(scene.agent.get("/v1/status")?["left"] == 1, "in the status");
    // One transmission may have been due already, and says when the next one is.
    let before = entry()?.originated;
    holds(Duration::from_secs(4), "silence", || {
        let spoken = entry()?.originated - before;
        ensure!(spoken <= 1, "{spoken} packets");
        anyhow::Ok(())
    })?;
    far_end.resume();
    scene.until_up(&[(gone, HERE), (stays, HERE)])?;
    let shown = scene.agent.cli(&["sessions"])?;
    ensure!(!shown.contains("have left"), "{shown}");
    // And is spoken to as ever.
    let before = entry()?;
    eventually(PATIENCE, "packets again", || {
        let now = entry()?;
        let spoken = now.originated + now.answered - before.originated - before.answered;
        ensure!(spoken >= 5, "{spoken} packets");
        anyhow::Ok(())
    })
}
