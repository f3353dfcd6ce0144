//! Both hosts at work, each with BIRD and an agent, and what must never change because of the latter.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::bird::{Bird, PROTOCOL};
use dz_tests::route_log::RouteLog;
use dz_tests::wait::eventually;

use crate::scene::{Host, Hosts, Kind};
use crate::sessions::{self, Steady};

/// Declared in the order of dropping. A test takes what it ends.
pub(crate) struct Beside {
    pub(crate) agent: Option<Agent>,
    pub(crate) far_agent: Option<Agent>,
    pub(crate) bird: Option<Bird>,
    pub(crate) far_bird: Option<Bird>,
    logs: [RouteLog; 2],
    pub(crate) hosts: Rc<Hosts>,
}

/// What agents have no part in, of both hosts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bystanders {
    /// What BIRD says of routes and protocols.
    views: [String; 2],
    /// BIRD's routes in the kernel's table.
    routes: [Vec<String>; 2],
    /// How often one has been added, changed or removed.
    changes: [usize; 2],
}

impl Beside {
    /// With agents as [`Host::agent`] has them.
    pub(crate) fn new(kind: Kind, addresses: usize) -> Result<Self> {
        Self::with(kind, addresses, |host| host.agent(Home::new()?))
    }

    /// With agents of the caller's.
    pub(crate) fn with(
        kind: Kind,
        addresses: usize,
        agent: impl Fn(&Host) -> Result<Agent>,
    ) -> Result<Self> {
        Self::over(Hosts::new(kind, u16::try_from(addresses)?)?, agent)
    }

    /// Between hosts of the caller's. Starts the agents first: routes are followed as they appear. Waits
    /// until all are there.
    pub(crate) fn over(hosts: Hosts, agent: impl Fn(&Host) -> Result<Agent>) -> Result<Self> {
        let hosts = Rc::new(hosts);
        let (here, there) = (&hosts.here, &hosts.there);
        let logs = [
            RouteLog::start(&here.netns)?,
            RouteLog::start(&there.netns)?,
        ];
        let (agent, far_agent) = (agent(here)?, agent(there)?);
        let bird = here.bird(there)?;
        let far_bird = there.bird(here)?;
        bird.until_established()?;
        let all: Vec<_> = (0..here.addresses.len()).collect();
        here.until_routes(there, &all)?;
        there.until_routes(here, &all)?;
        Ok(Self {
            agent: Some(agent),
            far_agent: Some(far_agent),
            bird: Some(bird),
            far_bird: Some(far_bird),
            logs,
            hosts,
        })
    }

    pub(crate) fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("no agent")
    }

    pub(crate) fn far_agent(&self) -> Result<&Agent> {
        self.far_agent.as_ref().context("no agent")
    }

    pub(crate) fn bird(&self) -> Result<&Bird> {
        self.bird.as_ref().context("no BIRD")
    }

    pub(crate) fn far_bird(&self) -> Result<&Bird> {
        self.far_bird.as_ref().context("no BIRD")
    }

    /// Waits until every pair of addresses has its session, at both ends in this state.
    pub(crate) fn until_all(&self, state: State) -> Result<()> {
        let (here, there) = (&self.hosts.here, &self.hosts.there);
        let all: Vec<_> = (0..here.addresses.len()).collect();
        sessions::until(self.agent()?, (here, there), &all, state)?;
        sessions::until(self.far_agent()?, (there, here), &all, state)
    }

    /// Sessions of both ends, as they are not to change.
    pub(crate) fn steady(&self, numbers: &[usize]) -> Result<[Vec<Steady>; 2]> {
        let (here, there) = (&self.hosts.here, &self.hosts.there);
        Ok([
            sessions::steady(self.agent()?.home(), there, numbers)?,
            sessions::steady(self.far_agent()?.home(), here, numbers)?,
        ])
    }

    /// As they are, once BIRD has come to rest.
    pub(crate) fn bystanders(&self) -> Result<Bystanders> {
        self.look([
            self.bird()?.settled_view()?,
            self.far_bird()?.settled_view()?,
        ])
    }

    /// Nothing has happened to them since. Times that BIRD prints may differ by their rounding from
    /// one look to the next, but nothing that has happened is ever undone.
    pub(crate) fn unchanged(&self, before: &Bystanders) -> Result<()> {
        eventually(PATIENCE, "BIRD's view and routes as they were", || {
            let now = self.look([self.bird()?.view()?, self.far_bird()?.view()?])?;
            ensure!(now == *before, "{now:#?}\n\nbefore: {before:#?}");
            anyhow::Ok(())
        })
    }

    fn look(&self, views: [String; 2]) -> Result<Bystanders> {
        let (here, there) = (&self.hosts.here, &self.hosts.there);
        let changes = |log: &RouteLog| -> Result<usize> {
            let all = log.all()?.into_iter();
            Ok(all
                .filter(|change| change.route.protocol == PROTOCOL)
                .count())
        };
        let [log, far_log] = &self.logs;
        Ok(Bystanders {
            views,
            routes: [here.routes()?, there.routes()?],
            changes: [changes(log)?, changes(far_log)?],
        })
    }
}

impl Host {
    /// An agent that follows BIRD's routes, in a home where another one may have lived. Detection is
    /// slow: while one agent starts, the other one alone keeps the sessions, on a busy machine.
    pub(crate) fn agent(&self, home: Home) -> Result<Agent> {
        self.follower(home, "proto=bird", 10)
    }

    /// An agent that follows these routes, with so many intervals of 300 ms to detection.
    pub(crate) fn follower(&self, home: Home, condition: &str, detect: u8) -> Result<Agent> {
        let detect = detect.to_string();
        let mut arguments = vec!["--interface", INTERFACE, "--follow", condition];
        arguments.extend(["--attach", "tc", "--metrics-listen=off"]);
        arguments.extend(["--max-sessions=128", "--detect-mult", &detect]);
        arguments.extend(["--tx-interval=300ms", "--rx-interval=300ms"]);
        Agent::start_in(home, &self.netns, &arguments)
    }
}
