//! Interfaces that no session can run over: the reason is told wherever somebody asks.

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::{Requirement, Test};
use dz_tests::netns::Netns;
use dz_tests::tun;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;

use crate::scene::NEEDS;

const INTERVAL_MS: u32 = 100;

pub(super) fn tests() -> Vec<Test> {
    let gre = [Requirement::Root, Requirement::LinkKind("gre")];
    vec![
        Test::new("unserved::no_address", &NEEDS, no_address),
        Test::new("unserved::remote_any", &gre, remote_any),
        Test::new(
            "unserved::over_ipv6",
            &[Requirement::Root, Requirement::LinkKind("ip6gre")],
            over_ipv6,
        ),
    ]
}

/// Without an address, and then with IPv6 only, the interface is served, but there is nothing to speak
/// from until one comes; no restart is needed.
fn no_address() -> Result<()> {
    let bed = Bed::new("noaddress", std::time::Duration::ZERO)?;
    bed.here
        .ip(&format!("address flush dev {INTERFACE} scope link"))?;
    let agent = bed.agent(INTERVAL_MS)?;
    let (here, there) = (HERE.to_string(), THERE.to_string());
    let refused = || {
        let by_name = format!("{HERE} is not an address of this host");
        for (words, reason) in [
            (&["connect", &there, "--local", &here][..], &*by_name),
            (&["connect", &there], "has no address to speak from"),
        ] {
            // A GRE tunnel starts from an address of this host, which will do.
            if words.len() == 2 && tun::Kind::wanted()? == tun::Kind::Gre {
                continue;
            }
            let output = agent.home().command(words)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let code = output.status.code();
            ensure!(code == Some(8) && said.contains(reason), "{output:?}");
        }
        let shown = agent.cli(&["status"])?;
        ensure!(shown.contains("served"), "{shown}");
        anyhow::Ok(())
    };
    refused()?;
    bed.here
        .ip(&format!("address add 2001:db8::1/64 dev {INTERFACE}"))?;
    refused()?;
    bed.here
        .ip(&format!("address add {HERE}/31 dev {INTERFACE}"))?;
    bed::connect(&agent)?;
    let _peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::until(agent.home(), State::Up)?;
    Ok(())
}

/// At start it is refused; in the place of one that was served, it waits for a better one.
fn remote_any() -> Result<()> {
    let here = Netns::new("any")?;
    let create = |remote: &str| {
        let line = format!("link add {INTERFACE} type gre local 192.0.2.1 remote {remote}");
        here.ip(&line)?;
        here.ip(&format!("address add {HERE}/31 dev {INTERFACE}"))?;
        here.ip(&format!("link set {INTERFACE} up"))
    };
    create("any")?;
    let reason = "without a remote address cannot be served; create it with `remote ADDRESS`";
    refuses_to_start(&here, reason)?;
    here.ip(&format!("link delete {INTERFACE}"))?;
    create("192.0.2.2")?;
    let agent = Agent::start(&here, &["--interface", INTERFACE])?;
    bed::connect(&agent)?;
    here.ip(&format!("link delete {INTERFACE}"))?;
    create("any")?;
    eventually(PATIENCE, "the reason", || {
        let shown = agent.cli(&["status"])?;
        ensure!(shown.contains(reason), "{shown}");
        let parked = agent.cli(&["sessions"])?;
        ensure!(parked.contains(reason), "{parked}");
        anyhow::Ok(())
    })?;
    here.ip(&format!("link delete {INTERFACE}"))?;
    create("192.0.2.2")?;
    eventually(PATIENCE, "a session again", || {
        bed::entry(agent.home())?;
        anyhow::Ok(())
    })
}

fn over_ipv6() -> Result<()> {
    let here = Netns::new("ip6gre")?;
    here.ip(&format!(
        "link add {INTERFACE} type ip6gre local 2001:db8::1 remote 2001:db8::2"
    ))?;
    here.ip(&format!("address add {HERE}/31 dev {INTERFACE}"))?;
    refuses_to_start(&here, "a GRE tunnel over IPv6 (ip6gre) cannot be served")
}

/// Exit code 5 and one line.
fn refuses_to_start(netns: &Netns, reason: &str) -> Result<()> {
    let mut agent = Agent::spawn_in(Home::new()?, netns, &["--interface", INTERFACE])?;
    let status = eventually(PATIENCE, "the end of a refused agent", || {
        agent.process().ended().ok().flatten()
    })?;
    let log = agent.process().log();
    let lines: Vec<_> = log.lines().filter(|l| l.contains("dz-agent: ")).collect();
    ensure!(
        status.code() == Some(5) && lines.len() == 1 && lines[0].contains(reason),
        "{status}: {log}"
    );
    Ok(())
}
