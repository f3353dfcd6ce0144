//! Tries cases, several side by side, each in namespaces and a pin directory of its own.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;

use crate::case::{Case, Outcome, Phase};
use crate::scene::Scene;
use crate::starts::{self, Dead};
use crate::work::Worker;

/// A case, and how it ended; or what was wrong.
pub(crate) type Tried = (Case, Result<Outcome, String>);

/// What the next case of a phase can use again.
struct Stage {
    // Before the scene: what lives in it ends first.
    dead: Option<Dead>,
    worker: Option<Worker>,
    phase: Phase,
    scene: Scene,
}

/// Tries every case, and returns them in their order.
pub(crate) fn run(cases: Vec<Case>, workers: usize) -> Vec<Tried> {
    let cases = Mutex::new(cases.into_iter().enumerate().collect::<VecDeque<_>>());
    let tried = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut stage = None;
                loop {
                    let next = cases
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some((index, case)) = next else { return };
                    let begin = Instant::now();
                    let result = attempt(&mut stage, &case).map_err(|error| one_line(&error));
                    let took_ms = begin.elapsed().as_millis();
                    match &result {
                        Ok(outcome) => println!("{case}: {} ({took_ms} ms)", outcome.name()),
                        Err(why) => println!("{case}: BAD ({took_ms} ms): {why}"),
                    }
                    let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
                    tried.push((index, (case, result)));
                }
            });
        }
    });
    let mut tried = tried.into_inner().unwrap_or_else(PoisonError::into_inner);
    tried.sort_by_key(|(index, _)| *index);
    tried.into_iter().map(|(_, tried)| tried).collect()
}

/// Tries a case. After one that is bad the next begins from nothing.
fn attempt(stage: &mut Option<Stage>, case: &Case) -> Result<Outcome> {
    let current = stage.take().filter(|stage| stage.phase == case.phase);
    let mut current = match current {
        Some(current) => current,
        None => Stage {
            dead: None,
            worker: None,
            phase: case.phase,
            scene: Scene::new()?,
        },
    };
    let scene = &current.scene;
    let outcome = match case.phase {
        Phase::Start => starts::first(scene, &case.call, case.fault)?,
        Phase::Takeover => {
            let dead = match current.dead.take() {
                Some(dead) => dead,
                None => Dead::new(scene)?,
            };
            let (outcome, dead) = dead.taken_over(scene, &case.call, case.fault)?;
            current.dead = Some(dead);
            outcome
        }
        Phase::Work => {
            let worker = match current.worker.take() {
                Some(worker) => worker,
                None => Worker::new(scene)?,
            };
            let (outcome, worker) = worker.hit(scene, &case.call, case.fault)?;
            current.worker = Some(worker);
            outcome
        }
    };
    *stage = Some(current);
    Ok(outcome)
}

fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).collect::<Vec<_>>().join(" / ")
}
