//! Metrics over TCP are a courtesy: what stands in their way stops nothing, and is tried again.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;

use crate::needs::NEEDS;

const PORT: u16 = 44881;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Tries are ten seconds apart at most, on a machine that may be busy.
const NEXT_TRIES: Duration = Duration::from_secs(60);
/// What the log says once for each reason.
const WITHOUT: &str = "metrics not served;";

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("metrics::port_taken", &NEEDS, port_taken),
        Test::new("metrics::address_not_there", &NEEDS, address_not_there),
        Test::new("metrics::not_allowed", &NEEDS, not_an_address_to_bind),
        Test::new("metrics::all_addresses", &NEEDS, all_addresses),
        Test::new("metrics::off", &NEEDS, off),
    ]
}

/// Asks for the metrics there.
fn scrape(netns: &Netns, address: IpAddr) -> Result<String> {
    let mut stream = netns.run(|| TcpStream::connect(SocketAddr::new(address, PORT)))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.contains("doublezero_liveness_"), "{text}");
    Ok(text)
}

/// Waits until they are served there, and the agent says so.
fn until_served(netns: &Netns, agent: &Agent, address: IpAddr) -> Result<()> {
    eventually(NEXT_TRIES, "metrics", || scrape(netns, address).map(drop))?;
    eventually(PATIENCE, "status that shows them served", || {
        let status = agent.get("/v1/status")?;
        ensure!(
            status["metrics_error"].is_null() && status["metrics"].is_string(),
            "{status}"
        );
        Ok(())
    })
}

/// They are not served at present, for which these words are the reason. The first try is explained
/// once the agent has started, and its log comes through a pipe: both are waited for.
fn missing(agent: &mut Agent, words: &[&str]) -> Result<()> {
    let reason = eventually(PATIENCE, "a reason in the status", || {
        let status = agent.get("/v1/status")?;
        let reason = status["metrics_error"].as_str();
        reason
            .map(str::to_owned)
            .with_context(|| format!("no reason in {status}"))
    })?;
    println!("{reason}");
    for word in words {
        ensure!(reason.contains(word), "no {word:?} in {reason}");
    }
    let shown = agent.cli(&["status"])?;
    let line = format!("metrics: not served: {reason}");
    ensure!(shown.contains(&line), "{shown}");
    eventually(PATIENCE, "a line in the log", || {
        let log = agent.process().log();
        ensure!(log.contains(WITHOUT) && log.contains(&reason), "{log}");
        Ok(())
    })
}

fn said(agent: &mut Agent, words: &str) -> usize {
    let log = agent.process().log();
    log.lines().filter(|line| line.contains(words)).count()
}

fn port_taken() -> Result<()> {
    let bed = Bed::new("taken", Duration::ZERO)?;
    let other = bed.here.run(|| TcpListener::bind((LOCALHOST, PORT)))?;
    let mut agent = bed.agent(100)?;
    let us = format!("process {}", std::process::id());
    missing(&mut agent, &["127.0.0.1:44881", &us, "--metrics-listen"])?;
    let _peer = bed.peer(Rules::Deployed, 100)?;
    bed::connect(&agent)?;
    bed::until(agent.home(), State::Up)?;
    // Not before it has been tried again, which is no news.
    dz_tests::wait::holds(Duration::from_secs(4), "still taken", || {
        ensure!(said(&mut agent, WITHOUT) == 1);
        anyhow::Ok(())
    })?;
    drop(other);
    until_served(&bed.here, &agent, LOCALHOST)?;
    let listening = said(&mut agent, "address=127.0.0.1:44881");
    ensure!(listening == 1 && said(&mut agent, WITHOUT) == 1);
    Ok(())
}

fn address_not_there() -> Result<()> {
    let here = Netns::new("address")?;
    let listen = ["--metrics-listen", "10.9.9.9:44881"];
    let mut agent = Agent::start(&here, &[&["--interface", INTERFACE][..], &listen].concat())?;
    missing(&mut agent, &["10.9.9.9:44881", "no address of this host"])?;
    here.ip("address add 10.9.9.9/32 dev lo")?;
    until_served(&here, &agent, Ipv4Addr::new(10, 9, 9, 9).into())
}

/// Whatever else the kernel says of an address.
fn not_an_address_to_bind() -> Result<()> {
    let here = Netns::new("multicast")?;
    let listen = ["--metrics-listen", "[fe80::1]:44881"];
    let mut agent = Agent::start(&here, &[&["--interface", INTERFACE][..], &listen].concat())?;
    missing(&mut agent, &["[fe80::1]:44881", "--metrics-listen"])
}

fn all_addresses() -> Result<()> {
    let here = Netns::new("all")?;
    let _tun = Tun::new(&here, INTERFACE, &["169.254.7.0/31"])?;
    let arguments = ["--interface", INTERFACE, "--metrics-listen", ":44881"];
    let agent = Agent::start(&here, &arguments)?;
    for address in [LOCALHOST, HERE.into(), Ipv6Addr::LOCALHOST.into()] {
        eventually(PATIENCE, "metrics", || scrape(&here, address).map(drop))?;
    }
    let shown = agent.cli(&["status"])?;
    ensure!(
        shown.contains("metrics: http://[::]:44881/metrics"),
        "{shown}"
    );
    Ok(())
}

fn off() -> Result<()> {
    let here = Netns::new("off")?;
    let arguments = ["--interface", INTERFACE, "--metrics-listen", "off"];
    let agent = Agent::start(&here, &arguments)?;
    let shown = agent.cli(&["status"])?;
    ensure!(shown.contains("metrics: off"), "{shown}");
    ensure!(here.run(|| TcpStream::connect((LOCALHOST, PORT))).is_err());
    Ok(())
}
