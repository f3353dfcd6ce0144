//! What liveness packets look like on the underlay: the kernel programs' answers, and what our own
//! clock has them send.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use dz_common::LIVENESS_PORT;
use dz_common::counters::Counter;
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, PATIENCE};
use dz_tests::frame::{Parsed, UdpChecksum, parse_udp};
use dz_tests::gre::Ends;
use dz_tests::harness::Test;
use dz_tests::raw::RawSocket;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::capture::{Seen, is_gre};
use crate::scene::{
    Hosts, NEEDS, PAIRS, PATIENT, Pair, UNDER, UNDER_HERE, UNDER_THERE, connect, count,
    nothing_failed, until_up,
};

/// Of each session.
const ENOUGH: usize = 10;
const DETECT_MULT: u8 = 5;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("underlay::answers", &NEEDS, || answers(false)),
        // Their sender leaves the checksum to hardware that there is not: it is unfinished when the
        // packet is turned round.
        Test::new("underlay::answers_to_unfinished_sums", &NEEDS, || {
            answers(true)
        }),
        Test::new("underlay::transmissions", &NEEDS, transmissions),
    ]
}

/// The agent stands still: whatever leaves is the kernel programs' answer.
fn answers(unfinished: bool) -> Result<()> {
    let hosts = Hosts::new()?;
    if unfinished {
        hosts.there.command(&format!("ethtool -K {UNDER} tx on"))?;
    }
    let mut agent = hosts.agent(PATIENT)?;
    let _peers = hosts.peers(PATIENT)?;
    connect(&agent, &PAIRS)?;
    until_up(&agent, &hosts.here, &PAIRS)?;
    freeze(&mut agent)?;
    let counters = [Counter::TxOriginated, Counter::RxAnswered];
    let before = counters.map(|counter| count(agent.home(), counter));
    let asked = Asked::from(&hosts)?;
    let mark = hosts.from_here.mark();
    let seen = until_enough(&hosts, mark, |_| true)?;
    asked.all(unfinished)?;
    let after = counters.map(|counter| count(agent.home(), counter));
    let ([sent, answered], [sent_then, answered_then]) = (before, after);
    let (sent, answered) = (sent_then? - sent?, answered_then? - answered?);
    ensure!(
        sent == 0,
        "{sent} transmissions of an agent that stands still"
    );
    ensure!(
        answered >= seen.len() as u64,
        "{answered} of {}",
        seen.len()
    );
    ensure!(
        seen.iter().all(|seen| seen.packet.state == State::Up),
        "{seen:?}"
    );
    println!("{} answers on the underlay, each sound", seen.len());
    agent.process().signal(Signal::SIGCONT)?;
    nothing_failed(&mut agent)
}

/// What comes in for our end, with what its kernel says of the sums: our programs cannot ask it.
struct Asked(RawSocket);

impl Asked {
    /// From now on.
    fn from(hosts: &Hosts) -> Result<Self> {
        // Before anybody else at our end: the programs turn the packet round.
        let socket = RawSocket::open(&hosts.here, UNDER)?;
        socket.tell_sums()?;
        Ok(Self(socket))
    }

    /// Waits until each session has been asked often enough. The UDP checksum of each of these packets was
    /// unfinished, by the kernel's word and by its bytes; or of none.
    fn all(&self, unfinished: bool) -> Result<()> {
        let mut of: BTreeMap<Pair, usize> = BTreeMap::new();
        let mut other = None;
        eventually(PATIENCE, &format!("asked {ENOUGH} times each"), || {
            while let Some((told, frame)) = self.0.try_recv_summed()? {
                let Some(packet) = inside(&frame)? else {
                    continue;
                };
                let is_good = packet.udp_checksum == UdpChecksum::Good;
                if told != unfinished || is_good == unfinished {
                    other = Some((told, packet.clone()));
                }
                *of.entry((*packet.dst.ip(), *packet.src.ip())).or_default() += 1;
            }
            let asked = |pair| of.get(pair) >= Some(&ENOUGH);
            ensure!(PAIRS.iter().all(asked), "{of:?}");
            anyhow::Ok(())
        })?;
        ensure!(
            other.is_none(),
            "unfinished by the kernel's word, and how it came: {other:?}"
        );
        println!("asked {of:?}, sums unfinished: {unfinished}");
        Ok(())
    }
}

/// The liveness packet in the tunnel in a frame from the far end, if it is one.
fn inside(frame: &[u8]) -> Result<Option<Parsed>> {
    let ends = Ends {
        local: UNDER_THERE,
        remote: UNDER_HERE,
    };
    let packet = frame.get(14..).context("no Ethernet header")?;
    if !is_gre(packet) {
        return Ok(None);
    }
    let inner = parse_udp(ends.unwrap(packet)?);
    Ok(inner.filter(|inner| inner.dst.port() == LIVENESS_PORT))
}

/// The peers fall silent: whatever leaves from then on is our own, Up, then Down, then AdminDown.
fn transmissions() -> Result<()> {
    let hosts = Hosts::new()?;
    let mut agent = hosts.agent(DETECT_MULT)?;
    let peers = hosts.peers(DETECT_MULT)?;
    connect(&agent, &PAIRS)?;
    until_up(&agent, &hosts.here, &PAIRS)?;
    for peer in &peers {
        peer.silence();
    }
    let answered = count(agent.home(), Counter::RxAnswered)?;
    let mark = hosts.from_here.mark();
    let mut seen = until_enough(&hosts, mark, |seen| seen.packet.state == State::Down)?;
    ensure!(
        seen.iter().any(|seen| seen.packet.state == State::Up),
        "{seen:?}"
    );
    agent.cli(&["disconnect", "--all"])?;
    seen.extend(until_farewells(&hosts, mark)?);
    let more = count(agent.home(), Counter::RxAnswered)? - answered;
    ensure!(more == 0, "{more} answers to peers that are silent");
    println!("{} transmissions on the underlay, each sound", seen.len());
    nothing_failed(&mut agent)
}

/// Waits for so many packets of each session, all of which are of the sessions that there are.
fn until_enough(hosts: &Hosts, mark: usize, counts: impl Fn(&Seen) -> bool) -> Result<Vec<Seen>> {
    eventually(
        PATIENCE,
        &format!("{ENOUGH} packets of each session"),
        || {
            let seen = hosts.from_here.liveness(mark)?;
            let of = by_session(seen.iter().filter(|seen| counts(seen)));
            ensure!(
                PAIRS.iter().all(|pair| of.get(pair) >= Some(&ENOUGH)),
                "{of:?}"
            );
            anyhow::Ok(seen)
        },
    )
    .and_then(|seen| {
        let of = by_session(&seen);
        ensure!(of.len() == PAIRS.len(), "strangers: {of:?}");
        Ok(seen)
    })
}

fn until_farewells(hosts: &Hosts, mark: usize) -> Result<Vec<Seen>> {
    eventually(PATIENCE, "three farewells of each session", || {
        let mut seen = hosts.from_here.liveness(mark)?;
        seen.retain(|seen| seen.packet.state == State::AdminDown);
        let of = by_session(&seen);
        ensure!(
            of.len() == PAIRS.len() && of.values().all(|count| *count == 3),
            "{of:?}"
        );
        anyhow::Ok(seen)
    })
}

fn by_session<'a>(seen: impl IntoIterator<Item = &'a Seen>) -> BTreeMap<Pair, usize> {
    let mut of = BTreeMap::new();
    for seen in seen {
        *of.entry((seen.from, seen.to)).or_default() += 1;
    }
    of
}

/// Stops the agent's process where it is; its sessions stay Up.
fn freeze(agent: &mut Agent) -> Result<()> {
    agent.process().freeze()?;
    let entries = bed::entries(agent.home())?;
    ensure!(entries.iter().all(|entry| entry.session.state == State::Up));
    Ok(())
}
