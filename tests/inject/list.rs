//! Which cases there are: what an agent calls is written down once in each phase.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use dz_tests::injector::Call;
use dz_tests::rng::Rng;

use crate::Case;
use crate::case::{Phase, faults};
use crate::scene::Scene;
use crate::starts::{self, Dead};
use crate::work::Worker;

/// Of a kind that a start calls more often than this, as many are tried, evenly spread: it is a loop over one thing.
const OF_A_LOOP: usize = 8;
/// The same of calls that read a file in pieces, or ask for something about it.
const OF_A_FILE: usize = 3;
/// Of a kind in the agent's work: the first, a middle and the last.
const OF_WORK: usize = 3;

/// Calls about files that come in series.
const ABOUT_FILES: [&str; 6] = [
    "read",
    "statx",
    "lseek",
    "fcntl",
    "getdents64",
    "newfstatat",
];

/// Lists every case: all calls of a start and of a takeover; of work the first, a middle and the last of each kind.
///
/// # Errors
/// What is recorded does not work without faults.
pub(crate) fn all() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for phase in Phase::ALL {
        let scene = Scene::new()?;
        let recorded = match phase {
            Phase::Start => starts::record(&scene, Scene::home()?),
            Phase::Takeover => Dead::new(&scene)?.record(&scene),
            Phase::Work => Worker::new(&scene)?.record(&scene),
        };
        let recorded = recorded.with_context(|| phase.name())?;
        let mut counts = BTreeMap::new();
        for kind in recorded {
            *counts.entry(kind).or_insert(0) += 1;
        }
        for (kind, count) in counts {
            let name = kind.split(' ').next().unwrap_or(&kind);
            let most = match phase {
                Phase::Work => OF_WORK,
                _ if ABOUT_FILES.contains(&name) => OF_A_FILE,
                _ => OF_A_LOOP,
            };
            for number in spread(count, most) {
                let call = Call {
                    kind: kind.clone(),
                    number,
                };
                cases.extend(faults(&kind).map(|fault| Case {
                    phase,
                    call: call.clone(),
                    fault,
                }));
            }
        }
    }
    Ok(cases)
}

/// Returns at most so many of the numbers from 1 to `count`, the first and the last among them.
fn spread(count: usize, most: usize) -> BTreeSet<usize> {
    if count <= most {
        return (1..=count).collect();
    }
    let place = |index: usize| 1 + index * (count - 1) / (most - 1);
    (0..most).map(place).collect()
}

/// Chooses those whose names have one of the texts in them, and of these a sample. What is asked for by its whole name is tried
/// although it was not recorded.
pub(crate) fn choose(all: &[Case], only: &[String], sample: Option<usize>, seed: u64) -> Vec<Case> {
    let mut chosen: Vec<_> = only.iter().filter_map(|name| name.parse().ok()).collect();
    let named = |case: &&Case| {
        let name = case.to_string();
        only.is_empty() || only.iter().any(|text| name.contains(text.as_str()))
    };
    let more: Vec<_> = all.iter().filter(named).cloned().collect();
    for case in more {
        if !chosen.contains(&case) {
            chosen.push(case);
        }
    }
    if let Some(sample) = sample {
        let rng = Rng::new(seed, 0);
        while chosen.len() > sample {
            let index = rng.index(chosen.len());
            chosen.swap_remove(index);
        }
    }
    // An agent at work is used again, and so is a dead one.
    chosen.sort_by_key(|case| (case.phase, case.to_string()));
    chosen
}
