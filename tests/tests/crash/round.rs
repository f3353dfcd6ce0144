//! Random rounds: things change, the agent is killed meanwhile, things change without it, and the
//! next agent has to make sense of what it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dz_agent::datapath::MapReader;
use dz_tests::ask::Reply;
use dz_tests::harness::forget_notes;
use dz_tests::rng::Rng;
use dz_tests::wait::monotonic_ns;
use nix::sys::signal::Signal;

use crate::check::{always, not_flapped, nothing_left};
use crate::host::{Host, Life, pause, spawn, start};
use crate::model::{Request, Wanted};
use crate::world::{LOCALS, World};

/// The longest that a start is given before it is killed: a little longer than starts take.
const START_US: u64 = 500_000;

/// Runs so many rounds, each with a seed of its own. A round that fails says how to replay it.
pub(crate) fn rounds(label: &str, count: u64) -> Result<()> {
    let replayed = std::env::var("DZ_SEED").ok();
    let first = match &replayed {
        Some(seed) => seed.parse().context("DZ_SEED")?,
        None => monotonic_ns(),
    };
    let mut host = Host::new(label)?;
    for seed in first..first + count {
        host.log.clear();
        forget_notes();
        if let Err(error) = host.round(&Rng::new(seed, 0)) {
            let log = host.log.join("\n  ");
            bail!(
                "{error:#}\nround {} of {count}: DZ_SEED={seed} begins with it, DZ_SEED={first} \
                 also with those before it\n  {log}",
                seed - first + 1
            );
        }
    }
    Ok(())
}

impl Host {
    fn round(&mut self, rng: &Rng) -> Result<()> {
        self.prepare(rng).context("before the round")?;
        let before = self.settled().context("before the round")?;
        self.touched.clear();
        self.live(rng)?;
        for _ in 0..rng.below(3) {
            self.change(rng)?;
        }
        while rng.chance(25) {
            self.die_starting(rng)?;
            if rng.chance(50) {
                self.change(rng)?;
            }
        }
        let home = self.dead()?;
        match MapReader::from_pins(home.pin_dir()) {
            Ok(reader) => always(&self.world, &mut self.model, &reader),
            // It got so far with taking everything back that its maps are gone.
            Err(_) => nothing_left(&self.world, &mut self.model),
        }
        .context("without an agent")?;
        self.log("start");
        self.life = Life::Running(start(home, &self.world)?);
        let after = self.settled()?;
        not_flapped(&before, &after, &self.touched)
    }

    /// Brings about the state that the seed wants to begin with, whatever was before.
    fn prepare(&mut self, rng: &Rng) -> Result<()> {
        self.world.restore()?;
        let ghosts = rng.pick(&[0, 10, 50, 90]);
        let mut wanted = BTreeMap::new();
        for peer in World::addresses() {
            let percent = if World::is_far(peer) { 80 } else { ghosts };
            if rng.chance(percent) {
                wanted.insert(peer, Wanted::draw(rng));
            }
        }
        let known = &self.model.peers;
        let stale = known
            .iter()
            .filter(|(peer, now)| wanted.get(*peer) != Some(*now));
        let stale: BTreeSet<_> = stale.map(|(peer, _)| *peer).collect();
        let new = wanted
            .iter()
            .filter(|(peer, wanted)| known.get(*peer) != Some(*wanted));
        let new: BTreeMap<_, _> = new.map(|(peer, wanted)| (*peer, *wanted)).collect();
        for request in [Request::Disconnect(stale), Request::Connect(new)] {
            if request.peers().is_empty() {
                continue;
            }
            let reply = self.send(&request)?.reply()?;
            anyhow::ensure!(reply == Reply::Done, "{reply:?}");
            self.model.note(&request, &reply)?;
        }
        match rng.below(8) {
            0 => self.world.hold(rng.pick(&LOCALS), false),
            1 => self.world.set_up(false).map(|_| ()),
            2 => {
                self.world.delete_interface();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Requests and changes while the agent runs, and its end at a random moment.
    fn live(&mut self, rng: &Rng) -> Result<()> {
        let mut free: Vec<_> = World::addresses().collect();
        let mut asked = Vec::new();
        for _ in 0..1 + rng.below(3) {
            if rng.chance(70) {
                if let Some(request) = self.draw(rng, &mut free) {
                    self.log(format!("{request:?}"));
                    asked.push((self.send(&request)?, request));
                }
            } else {
                self.change(rng)?;
            }
            // Mostly at once, sometimes so much later that everything has been done.
            pause(rng, 1 << rng.below(16));
        }
        pause(rng, 1 << rng.below(16));
        let stopped = self.stop(rng)?;
        self.log("kill");
        self.kill()?;
        for (asked, request) in asked {
            let reply = asked.reply()?;
            self.log(format!(
                "{} {:?}: {reply:?}",
                request.method(),
                request.peers()
            ));
            if let Reply::Refused(words) = &reply {
                // Something else of this round was in the way: an interface that is down, say.
                anyhow::ensure!(!words.contains("\"internal\""), "{request:?}: {words}");
            } else if !matches!(request, Request::Faulty(_)) {
                self.touch(&request);
            }
            self.model.note(&request, &reply)?;
        }
        if stopped {
            self.model.withdrawn();
            self.touched.extend(World::addresses());
        }
        Ok(())
    }

    /// Sometimes the agent is told to stop before it is killed. Returns whether it was told to take
    /// everything back.
    fn stop(&mut self, rng: &Rng) -> Result<bool> {
        let signal = match rng.below(8) {
            0 => Signal::SIGTERM,
            1 => Signal::SIGUSR2,
            _ => return Ok(false),
        };
        if let Life::Running(agent) = &mut self.life {
            agent.process().signal(signal)?;
        }
        self.log(signal.as_str());
        pause(rng, 1 << rng.below(18));
        Ok(signal == Signal::SIGTERM)
    }

    /// A peer that is connected again just as it is has nothing to notice.
    fn touch(&mut self, request: &Request) {
        let same = |peer: &Ipv4Addr| match request {
            Request::Connect(peers) => self.model.peers.get(peer) == peers.get(peer),
            _ => false,
        };
        let touched: Vec<_> = request
            .peers()
            .into_iter()
            .filter(|peer| !same(peer))
            .collect();
        self.touched.extend(touched);
    }

    /// A request about peers that no other one of this round is about.
    fn draw(&self, rng: &Rng, free: &mut Vec<Ipv4Addr>) -> Option<Request> {
        let most = rng.pick(&[1, 2, 5, 20, 100]);
        let connect = rng.chance(50);
        let again = rng.chance(10);
        let fits = |peer: &Ipv4Addr| match (connect, self.model.peers.contains_key(peer)) {
            (true, true) => again,
            (connect, known) => connect != known,
        };
        let mut drawn = Vec::new();
        free.retain(|peer| {
            let take = drawn.len() < most && fits(peer) && rng.chance(60);
            if take {
                drawn.push(*peer);
            }
            !take
        });
        if drawn.is_empty() {
            return None;
        }
        if !connect {
            return Some(Request::Disconnect(drawn.into_iter().collect()));
        }
        let wanted = |peer| {
            (
                peer,
                self.model
                    .peers
                    .get(&peer)
                    .copied()
                    .unwrap_or_else(|| Wanted::draw(rng)),
            )
        };
        let wanted = drawn.into_iter().map(wanted).collect();
        Some(if rng.chance(10) {
            Request::Faulty(wanted)
        } else {
            Request::Connect(wanted)
        })
    }

    /// A start that is killed at a random moment.
    fn die_starting(&mut self, rng: &Rng) -> Result<()> {
        let home = self.dead()?;
        let after_us = rng.below(START_US);
        self.log(format!("start, killed after {after_us} us"));
        let agent = spawn(home, &self.world)?;
        sleep(Duration::from_micros(after_us));
        self.life = Life::Running(agent);
        self.kill()
    }
}
