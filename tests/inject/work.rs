//! All that an agent does while it runs, in two seconds: connect, disconnect, a route that somebody deletes, full checks, scrapes,
//! a reload.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_tests::ask::{Asked, Reply};
use dz_tests::bed::{HERE, INTERFACE};
use dz_tests::injector::{Call, Fault};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::case::Outcome;
use crate::life::{Life, Watched};
use crate::scene::{ASKED, CHANGING, FILE, Scene};
use crate::starts::{connect, unchanged};
use dz_tests::mark::Marks;

const PEERS: [Ipv4Addr; 3] = [FILE[0], FILE[1], ASKED];
const ALL: [Ipv4Addr; 4] = [FILE[0], FILE[1], ASKED, CHANGING];
/// An address that comes and goes, with a full check each time.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 9);

/// An agent at work.
pub(crate) struct Worker {
    watched: Watched,
    marks: Marks,
    others: String,
}

/// A part of a round.
type Step<'a> = dyn Fn(&mut Watched) -> Result<()> + 'a;

/// How far a round of work came.
enum Round {
    Whole,
    Cut,
}

impl Worker {
    /// Starts one, with its peers Up.
    pub(crate) fn new(scene: &Scene) -> Result<Self> {
        let home = Scene::home()?;
        let others = scene.others(&home)?;
        let (mut watched, life) = Watched::start(scene, home, None)?;
        ensure!(matches!(life, Life::Ready), "{}", watched.last_line());
        connect(&watched.agent)?;
        let marks = scene.right(&watched.agent, &PEERS)?;
        let _ = watched.injector.end();
        let mut worker = Self {
            watched,
            marks,
            others,
        };
        // What it does once and never again is not a part of its work.
        worker.work(scene)?;
        Ok(worker)
    }

    /// Writes the calls of a round down.
    pub(crate) fn record(mut self, scene: &Scene) -> Result<Vec<String>> {
        self.watched.injector.begin(None);
        self.work(scene)?;
        Ok(self.watched.injector.end())
    }

    /// Has one of its calls hit, and returns what works in the end.
    pub(crate) fn hit(
        mut self,
        scene: &Scene,
        call: &Call,
        fault: Fault,
    ) -> Result<(Outcome, Self)> {
        self.watched.injector.begin(Some((call.clone(), fault)));
        let round = self.work(scene)?;
        let met = self.watched.injector.has_hit();
        // The thread of a call after which it is to be killed has made no other: then it is killed now.
        let round = if met && fault == Fault::Kill {
            Round::Cut
        } else {
            round
        };
        let outcome = match round {
            Round::Whole if met => Outcome::WentOn,
            Round::Whole => Outcome::NotMet,
            Round::Cut => {
                self = self.restarted(scene)?;
                let again = self.work(scene).context("work after the next start")?;
                ensure!(matches!(again, Round::Whole), "the next one ends, too");
                Outcome::Ended
            }
        };
        let _ = self.watched.injector.end();
        unchanged(scene, self.watched.agent.home(), &self.others)?;
        Ok((outcome, self))
    }

    /// Starts the next agent, which finds what this one leaves.
    fn restarted(self, scene: &Scene) -> Result<Self> {
        let Self {
            watched,
            marks,
            others,
        } = self;
        let home = watched.crash()?;
        let (mut watched, life) = Watched::start(scene, home, None).context("the next start")?;
        ensure!(
            matches!(life, Life::Ready),
            "the next start: {}",
            watched.last_line()
        );
        let _ = watched.injector.end();
        Ok(Self {
            watched,
            marks,
            others,
        })
    }

    /// Does it all once, each step until it is done or the agent has ended. Then everything is as before.
    fn work(&mut self, scene: &Scene) -> Result<Round> {
        let here = &scene.bed.here;
        let one = json!([{ "peer": CHANGING, "local": HERE }]).to_string();
        let gone = json!({ "peers": [CHANGING] }).to_string();
        let steps: [&Step<'_>; 9] = [
            &|watched| ask(watched, "GET", "/metrics", "", |_| false),
            &|watched| ask(watched, "POST", "/v1/peers", &one, |shown| shown),
            &|watched| watched.right(scene, &ALL).map(drop),
            &|watched| {
                // A round that was cut may have left none.
                let _ = here.ip(&format!(
                    "route delete {} dev {INTERFACE} proto 144",
                    FILE[0]
                ));
                watched.right(scene, &ALL).map(drop)
            },
            &|watched| held(scene, watched, true),
            &|watched| watched.agent.process().signal(Signal::SIGHUP),
            &|watched| held(scene, watched, false),
            &|watched| ask(watched, "DELETE", "/v1/peers", &gone, |shown| !shown),
            &|watched| ask(watched, "GET", "/v1/status", "", |_| false),
        ];
        for step in steps {
            if let Err(error) = step(&mut self.watched) {
                // What fails because the agent has ended is no fault of the step's.
                return match self.watched.ended()? {
                    Some(_) => Ok(Round::Cut),
                    None => Err(error),
                };
            }
        }
        let marks = match self.watched.right(scene, &PEERS) {
            Ok(marks) => marks,
            Err(_) if self.watched.ended()?.is_some() => return Ok(Round::Cut),
            Err(error) => return Err(error),
        };
        ensure!(
            marks == self.marks,
            "flapped: {:?}, now {marks:?}",
            self.marks
        );
        Ok(match self.watched.ended()? {
            Some(_) => Round::Cut,
            None => Round::Whole,
        })
    }
}

/// Asks until it is done, which a request may be that was cut or refused: `is_done` says so, told whether the peer that comes and
/// goes is shown.
fn ask(
    watched: &mut Watched,
    method: &str,
    path: &str,
    body: &str,
    is_done: fn(bool) -> bool,
) -> Result<()> {
    watched.until(&format!("{method} {path}"), |agent| {
        let socket = agent.home().socket();
        let why = match Asked::send(&socket, method, path, body)?.reply()? {
            Reply::Done => return Ok(()),
            Reply::Refused(why) => why,
            Reply::Cut => "cut".to_owned(),
        };
        let sessions = agent.get("/v1/sessions")?["sessions"].clone();
        let mut sessions = sessions.as_array().into_iter().flatten();
        let shown = sessions.any(|session| session["peer"] == CHANGING.to_string());
        ensure!(is_done(shown), "{why}");
        Ok(())
    })
}

/// Gives the interface an address, or takes it, and waits for the full check that finds it.
fn held(scene: &Scene, watched: &mut Watched, hold: bool) -> Result<()> {
    let word = if hold { "add" } else { "delete" };
    // A round that was cut may have done it.
    let line = format!("address {word} {ADDRESS}/32 dev {INTERFACE}");
    let _ = scene.bed.here.ip(&line);
    watched.until(&line, |agent| {
        let locals = MapReader::from_pins(agent.home().pin_dir())?.locals()?;
        let mut addresses = locals.iter().map(|(key, _)| Ipv4Addr::from(key.addr));
        ensure!(
            addresses.any(|address| address == ADDRESS) == hold,
            "{locals:?}"
        );
        Ok(())
    })
}
