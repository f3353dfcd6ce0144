//! What is measured: the agent in a namespace, far ends that answer, and bare netlink beside it.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use dz_tests::agent::{Agent, Home};
use dz_tests::answerer::{Answerer, peer};
use dz_tests::ask::{Asked, Reply};
use dz_tests::bed::{HERE, INTERFACE};
use dz_tests::netns::Netns;
use dz_tests::route_log::RouteLog;
use dz_tests::rtnl::{Change, Route, Table};
use dz_tests::tun::Tun;
use dz_tests::wait::monotonic_ns;

use crate::events::Events;

/// Long: what is measured are requests, not keeping sessions up.
const INTERVAL: Duration = Duration::from_secs(3);
/// `rtm_protocol` of the baseline's routes.
const BARE: u8 = 251;
const PATIENCE: Duration = Duration::from_secs(60);

/// The agent and what watches it. Declared in the order of dropping: the agent first.
pub(crate) struct Bed {
    agent: Agent,
    pub(crate) events: Events,
    _far: Answerer,
    log: RouteLog,
    table: Table,
    ifindex: u32,
    _netns: Netns,
}

/// A request and what came of it.
pub(crate) struct Done {
    /// From the request to the reply, ns.
    pub(crate) took_ns: u64,
    /// From the request to the last notification of a route, ns.
    pub(crate) routes_ns: u64,
    pub(crate) changes: Vec<Change>,
}

impl Bed {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let netns = Netns::new("bench")?;
        let tun = Tun::new(&netns, INTERFACE, &["169.254.7.0/31"])?;
        // What ten thousand sessions send at once must not be lost: retries would be measured.
        netns.ip(&format!("link set {INTERFACE} txqueuelen 40000"))?;
        let ifindex = tun.ifindex();
        let far = Answerer::start(tun, INTERVAL, false)?;
        let log = RouteLog::start(&netns)?;
        let table = Table::open(&netns)?;
        let interval = format!("{}s", INTERVAL.as_secs());
        let mut arguments = vec!["--interface", INTERFACE];
        arguments.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
        let agent = Agent::start_in(Home::new()?, &netns, &arguments)?;
        let events = Events::open(agent.home().pin_dir())?;
        Ok(Self {
            agent,
            events,
            _far: far,
            log,
            table,
            ifindex,
            _netns: netns,
        })
    }

    /// Connects peers and waits until all of them have their route.
    pub(crate) fn connect(&mut self, peers: &[usize]) -> anyhow::Result<Done> {
        let list = peers
            .iter()
            .map(|number| format!(r#"{{"peer":"{}","local":"{HERE}"}}"#, peer(*number)));
        let body = format!("[{}]", list.collect::<Vec<_>>().join(","));
        self.ask("POST", &body, peers.len(), false)
    }

    /// Disconnects peers and waits until all routes are reported gone.
    pub(crate) fn disconnect(&mut self, peers: &[usize]) -> anyhow::Result<Done> {
        let list = peers.iter().map(|number| format!(r#""{}""#, peer(*number)));
        let body = format!(r#"{{"peers":[{}]}}"#, list.collect::<Vec<_>>().join(","));
        self.ask("DELETE", &body, peers.len(), true)
    }

    fn ask(&mut self, method: &str, body: &str, routes: usize, gone: bool) -> anyhow::Result<Done> {
        let socket = self.agent.home().socket();
        let from = self.log.len();
        let begun_ns = monotonic_ns();
        let reply = Asked::send(&socket, method, "/v1/peers", body)?.reply()?;
        let took_ns = monotonic_ns() - begun_ns;
        ensure!(reply == Reply::Done, "{method}: {reply:?}");
        let changes = self.changes(from, routes, gone)?;
        Ok(Done {
            took_ns,
            routes_ns: last_ns(&changes)?.saturating_sub(begun_ns),
            changes,
        })
    }

    /// Adds bare routes, and returns how long that took, ns.
    pub(crate) fn add_bare(&mut self, routes: usize) -> anyhow::Result<u64> {
        let begun_ns = monotonic_ns();
        let from = self.log.len();
        for number in 0..routes {
            let route = self.bare(number);
            self.table.add(&route)?;
        }
        let changes = self.changes(from, routes, false)?;
        Ok(last_ns(&changes)?.saturating_sub(begun_ns))
    }

    /// Deletes them; how long it took, ns, until the last was reported gone.
    pub(crate) fn delete_bare(&mut self, routes: usize) -> anyhow::Result<u64> {
        let from = self.log.len();
        let begun_ns = monotonic_ns();
        for number in 0..routes {
            let route = self.bare(number);
            self.table.delete(&route)?;
        }
        let changes = self.changes(from, routes, true)?;
        Ok(last_ns(&changes)?.saturating_sub(begun_ns))
    }

    /// A route that is nobody's, in a network of its own.
    fn bare(&self, number: usize) -> Route {
        let first = u32::from(Ipv4Addr::new(10, 200, 0, 1));
        Route {
            dst: Ipv4Addr::from(first + number as u32),
            protocol: BARE,
            ifindex: self.ifindex,
        }
    }

    /// What was reported since, which must be as many as there are routes, all of one kind.
    fn changes(&self, from: usize, routes: usize, gone: bool) -> anyhow::Result<Vec<Change>> {
        let changes = self.log.wait(from, PATIENCE, |news| news.len() >= routes)?;
        let right = changes.iter().filter(|change| change.gone == gone).count();
        ensure!(right == routes && changes.len() == routes, "routes flapped");
        Ok(changes)
    }
}

fn last_ns(changes: &[Change]) -> anyhow::Result<u64> {
    changes
        .last()
        .map(|change| change.read_ns)
        .context("no route")
}
