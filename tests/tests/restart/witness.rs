//! What would have seen it, had anything gone wrong meanwhile.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use dz_common::map::SessionEntry;
use dz_common::packet::State;
use dz_tests::agent::{Home, Process};
use dz_tests::bed;
use dz_tests::netns::Netns;
use dz_tests::udp_peer::{Change, Snapshot};
use dz_tests::wait::eventually;

use crate::crowd::{Crowd, PATIENCE, PEERS};

/// Takes note of everything before, and compares after.
pub(crate) struct Witness<'a> {
    crowd: &'a Crowd,
    ours: HashMap<[u8; 4], SessionEntry>,
    theirs: HashMap<std::net::Ipv4Addr, Vec<Change>>,
    routes: RouteLog<'a>,
    delivered: u64,
}

impl<'a> Witness<'a> {
    pub(crate) fn new(crowd: &'a Crowd, home: &Home) -> Result<Self> {
        let routes = RouteLog::start(&crowd.bed.here)?;
        let theirs = crowd.peers.sessions().into_iter();
        Ok(Self {
            crowd,
            ours: by_peer(bed::entries(home)?),
            theirs: theirs.map(|theirs| (theirs.peer, theirs.changes)).collect(),
            routes,
            delivered: delivered(&crowd.bed.here)?,
        })
    }

    /// Waits until every session has received this many packets more than it had.
    pub(crate) fn until_heard(&self, home: &Home, more: u64) -> Result<()> {
        let before = by_peer(bed::entries(home)?);
        eventually(PATIENCE, "packets from every peer", || {
            let now = bed::entries(home)?;
            ensure!(now.len() == before.len(), "{} sessions", now.len());
            let late = now.iter().find(|now| {
                let had = before
                    .get(&now.key.peer)
                    .map_or(0, |before| before.received);
                now.received < had + more
            });
            ensure!(late.is_none(), "{late:?}");
            anyhow::Ok(())
        })
    }

    /// Waits until every peer has received this many packets more than it had.
    pub(crate) fn until_answered(&self, more: u64) -> Result<()> {
        let count = |all: Vec<Snapshot>| -> HashMap<_, _> {
            all.into_iter()
                .map(|theirs| (theirs.peer, theirs.received))
                .collect()
        };
        let before = count(self.crowd.peers.sessions());
        eventually(PATIENCE, "packets to every peer", || {
            let now = count(self.crowd.peers.sessions());
            let late = before.iter().find(|(peer, had)| now[*peer] < **had + more);
            ensure!(late.is_none(), "{late:?}");
            anyhow::Ok(())
        })
    }

    /// No session has changed its state at either end, no route was touched, and not one packet got
    /// past our program to the stack. Returns how many packets the program has taken meanwhile.
    pub(crate) fn nothing_happened(self, home: &Home) -> Result<u64> {
        let mut taken = 0;
        let now = by_peer(bed::entries(home)?);
        ensure!(now.len() == usize::from(PEERS), "{} sessions", now.len());
        for (peer, before) in &self.ours {
            let now = now.get(peer).context("a session is gone")?;
            ensure!(
                now.session.state == State::Up
                    && now.session.transitions == before.session.transitions
                    && now.session.local_discr == before.session.local_discr
                    && (now.generation, now.slot, now.block)
                        == (before.generation, before.slot, before.block),
                "{before:?}, then {now:?}"
            );
            ensure!(now.received > before.received, "{before:?}, then {now:?}");
            taken += now.received - before.received;
        }
        for theirs in self.crowd.peers.sessions() {
            let before = &self.theirs[&theirs.peer];
            ensure!(theirs.changes == *before, "{}: {:?}", theirs.peer, theirs);
        }
        let past = delivered(&self.crowd.bed.here)? - self.delivered;
        ensure!(past == 0, "{past} packets got past the program");
        let touched = self.routes.end()?;
        let ours = touched.lines().find(|line| line.contains("10.9."));
        ensure!(ours.is_none(), "a route was touched: {ours:?}");
        ensure!(self.crowd.routes()? == usize::from(PEERS));
        println!("{taken} packets received meanwhile, no state changed, no packet got past");
        Ok(taken)
    }
}

fn by_peer(entries: Vec<SessionEntry>) -> HashMap<[u8; 4], SessionEntry> {
    entries
        .into_iter()
        .map(|entry| (entry.key.peer, entry))
        .collect()
}

/// How many IPv4 packets the stack has handed to a protocol: those that no program took before. Our
/// end of the bed receives nothing but liveness packets.
fn delivered(netns: &Netns) -> Result<u64> {
    let table = netns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let mut lines = table.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names.zip(values).context("no Ip: in /proc/net/snmp")?;
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    let column = columns.find(|(name, _)| *name == "InDelivers");
    Ok(column.context("no InDelivers")?.1.parse()?)
}

/// Everything that happens to routes in a namespace.
struct RouteLog<'a> {
    netns: &'a Netns,
    monitor: Process,
}

impl<'a> RouteLog<'a> {
    fn start(netns: &'a Netns) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["monitor", "route"]);
        let monitor = Process::spawn(netns, &mut command, "ip monitor".to_owned())?;
        let log = Self { netns, monitor };
        log.marked("192.0.2.1")?;
        Ok(log)
    }

    fn end(self) -> Result<String> {
        self.marked("192.0.2.2")?;
        Ok(self.monitor.log())
    }

    /// Adds a route until it is reported: what happened before it has been reported, too.
    fn marked(&self, mark: &str) -> Result<()> {
        eventually(PATIENCE, "a route reported", || {
            let netns = self.netns;
            netns.ip(&format!("route replace {mark} dev lo metric 7"))?;
            netns.ip(&format!("route delete {mark} dev lo metric 7"))?;
            ensure!(self.monitor.log().contains(mark), "not yet");
            anyhow::Ok(())
        })
    }
}
