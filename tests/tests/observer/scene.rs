//! The agent, a thousand far ends that believe in no end, and the requests.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_tests::agent::{Agent, Home};
use dz_tests::answerer::{Answerer, peer as address};
use dz_tests::ask::{Asked, Reply};
use dz_tests::bed::{self, HERE, INTERFACE};
use dz_tests::harness::Requirement;
use dz_tests::netns::Netns;
use dz_tests::route_log::RouteLog;
use dz_tests::tun::Tun;
use dz_tests::wait::monotonic_ns;

use crate::history::Act;

/// What every test here needs.
pub(super) const NEEDS: [Requirement; 2] = [Requirement::Root, Requirement::Tun];

pub(super) const PEERS: usize = 1_000;
const INTERVAL_MS: u32 = 500;

pub(super) struct Scene {
    pub(super) netns: Netns,
    pub(super) far: Answerer,
    pub(super) agent: Agent,
    pub(super) log: RouteLog,
    pub(super) ifindex: u32,
    acts: Mutex<Vec<Vec<Act>>>,
}

impl Scene {
    pub(super) fn new() -> Result<Self> {
        let netns = Netns::new("observer")?;
        let tun = Tun::new(&netns, INTERFACE, &["169.254.7.0/31"])?;
        let ifindex = tun.ifindex();
        let interval = Duration::from_millis(INTERVAL_MS.into());
        let far = Answerer::start(tun, interval, true)?;
        let log = RouteLog::start(&netns)?;
        let agent = bed::agent(Home::new()?, &netns, INTERVAL_MS)?;
        Ok(Self {
            netns,
            far,
            agent,
            log,
            ifindex,
            acts: Mutex::new(vec![Vec::new(); PEERS]),
        })
    }

    /// One request about many peers, noted for each of them, from mark to mark.
    pub(super) fn ask(&self, connect: bool, peers: &[usize]) -> Result<()> {
        let (method, body) = request(connect, peers);
        // The order is what counts: mark, instant, request; reply, instant, mark.
        let sent = (self.log.mark()?, monotonic_ns());
        self.note(peers, |acts| {
            acts.push(Act {
                connect,
                sent,
                answered: None,
            });
        });
        let socket = self.agent.home().socket();
        let reply = Asked::send(&socket, method, "/v1/peers", &body)?.reply()?;
        let answered_ns = monotonic_ns();
        ensure!(
            reply == Reply::Done,
            "{method} of {}: {reply:?}",
            peers.len()
        );
        let answered = Some((self.log.mark()?, answered_ns));
        self.note(peers, |acts| {
            if let Some(act) = acts.last_mut() {
                act.answered = answered;
            }
        });
        Ok(())
    }

    /// What was asked so far.
    pub(super) fn acts(&self) -> Vec<Vec<Act>> {
        let acts = self.acts.lock();
        acts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, peers: &[usize], note: impl Fn(&mut Vec<Act>)) {
        let mut acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in peers {
            note(&mut acts[*peer]);
        }
    }
}

fn request(connect: bool, peers: &[usize]) -> (&'static str, String) {
    let mut body = String::new();
    for peer in peers {
        let comma = if body.is_empty() { "" } else { "," };
        let peer = address(*peer);
        // Writing to a string does not fail.
        let _ = if connect {
            write!(body, r#"{comma}{{"peer":"{peer}","local":"{HERE}"}}"#)
        } else {
            write!(body, r#"{comma}"{peer}""#)
        };
    }
    if connect {
        ("POST", format!("[{body}]"))
    } else {
        ("DELETE", format!(r#"{{"peers":[{body}]}}"#))
    }
}
