//! What would have seen it, had anything gone wrong meanwhile.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use dz_common::map::SessionEntry;
use dz_common::packet::State;
use dz_tests::agent::Home;
use dz_tests::bed;
use dz_tests::netns::Netns;
use dz_tests::process::Process;
use dz_tests::udp_peer::{Change, Snapshot};
use dz_tests::wait::eventually;

use crate::crowd::{Crowd, PATIENCE};

/// What a session looks like, in maps of any layout.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) up: bool,
    pub(crate) transitions: u32,
    pub(crate) local_discr: u32,
    /// Generation, slot and block.
    pub(crate) place: (u32, u32, u32),
    pub(crate) received: u64,
    pub(crate) answered: u64,
}

/// What our sessions look like, by the peer's address.
pub(crate) fn seen(home: &Home) -> Result<HashMap<[u8; 4], Seen>> {
    let seen = |entry: SessionEntry| Seen {
        up: entry.session.state == State::Up,
        transitions: entry.session.transitions,
        local_discr: entry.session.local_discr,
        place: (entry.generation, entry.slot, entry.block),
        received: entry.received,
        answered: entry.answered,
    };
    let entries = bed::entries(home)?.into_iter();
    Ok(entries.map(|entry| (entry.key.peer, seen(entry))).collect())
}

/// Takes note of everything before, and compares after.
pub(crate) struct Witness<'a> {
    crowd: &'a Crowd,
    ours: HashMap<[u8; 4], Seen>,
    theirs: HashMap<std::net::Ipv4Addr, Vec<Change>>,
    routes: RouteLog<'a>,
    delivered: u64,
}

impl<'a> Witness<'a> {
    pub(crate) fn new(crowd: &'a Crowd, mut ours: HashMap<[u8; 4], Seen>) -> Result<Self> {
        ours.retain(|peer, _| crowd.has(peer));
        ensure!(!ours.is_empty(), "nobody to watch");
        let routes = RouteLog::start(&crowd.bed.here)?;
        let theirs = crowd.peers.sessions().into_iter();
        Ok(Self {
            crowd,
            ours,
            theirs: theirs.map(|theirs| (theirs.peer, theirs.changes)).collect(),
            routes,
            delivered: delivered(&crowd.bed.here)?,
        })
    }

    /// Waits until every session has received this many packets more than it had.
    pub(crate) fn until_heard(&self, home: &Home, more: u64) -> Result<()> {
        let before = seen(home)?;
        eventually(PATIENCE, "packets from every peer", || {
            let now = seen(home)?;
            ensure!(now.len() == before.len(), "{} sessions", now.len());
            let late = now.iter().find(|(peer, now)| {
                let had = before.get(*peer).map_or(0, |before| before.received);
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
        let now = seen(home)?;
        for (peer, before) in &self.ours {
            let now = now.get(peer).context("a session is gone")?;
            ensure!(
                before.up
                    && now.up
                    && now.transitions == before.transitions
                    && now.local_discr == before.local_discr
                    && now.place == before.place,
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
        let device = format!("dev {}", self.crowd.interface);
        let ours = touched.lines().find(|line| line.contains(&device));
        ensure!(ours.is_none(), "a route was touched: {ours:?}");
        ensure!(self.crowd.routes()? == self.ours.len());
        println!("{taken} packets received meanwhile, no state changed, no packet got past");
        Ok(taken)
    }
}

/// How many datagrams have come to the stack's UDP: those that no program took before. Our end of the bed
/// receives nothing but liveness packets.
fn delivered(netns: &Netns) -> Result<u64> {
    let table = netns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let mut lines = table.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names.zip(values).context("no Udp: in /proc/net/snmp")?;
    let columns = names.split_whitespace().zip(values.split_whitespace());
    let columns: HashMap<_, _> = columns.collect();
    ["InDatagrams", "NoPorts", "InErrors"]
        .into_iter()
        .map(|name| Ok(columns.get(name).context(name)?.parse::<u64>()?))
        .sum()
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
