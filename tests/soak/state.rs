//! What an agent holds when it has nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use dz_agent::datapath::MapReader;
use dz_tests::agent::Agent;
use dz_tests::attached;
use dz_tests::bed::INTERFACE;
use dz_tests::netns::Netns;

/// It.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Counts by name, which are to be the same.
    counts: BTreeMap<String, usize>,
    /// What of the process is in memory, bytes.
    resident: u64,
}

impl State {
    /// Reads it.
    pub(crate) fn of(agent: &mut Agent, netns: &Netns, routes: usize) -> Result<Self> {
        let reader = MapReader::from_pins(agent.home().pin_dir())?;
        let mut counts = BTreeMap::new();
        let sessions = reader.sessions()?;
        counts.insert("sessions".to_owned(), sessions.len());
        let slots: BTreeSet<_> = sessions.iter().map(|entry| entry.slot).collect();
        counts.insert("deadline slots".to_owned(), slots.len());
        counts.insert("peers".to_owned(), reader.peers()?.len());
        counts.insert("routes".to_owned(), routes);
        let locals = reader.locals()?;
        counts.insert("addresses".to_owned(), locals.len());
        let blocks: BTreeSet<_> = locals.iter().map(|(_, block)| *block).collect();
        // Block 0 is shared by those that have none.
        let own = blocks.iter().filter(|block| **block != 0).count();
        counts.insert("counter blocks of their own".to_owned(), own);
        let pins = fs::read_dir(agent.home().pin_dir())?.count();
        counts.insert("pins".to_owned(), pins);
        let programs = attached::programs(netns, INTERFACE)?;
        counts.insert("programs".to_owned(), programs as usize);
        let process = format!("/proc/{}", agent.process().pid());
        counts.insert(
            "threads".to_owned(),
            fs::read_dir(format!("{process}/task"))?.count(),
        );
        for descriptor in fs::read_dir(format!("{process}/fd"))?.flatten() {
            let Ok(to) = fs::read_link(descriptor.path()) else {
                continue;
            };
            // Numbers of sockets, namespaces and mounts are not the same twice.
            let to = to
                .to_string_lossy()
                .replace(|c: char| c.is_ascii_digit(), "");
            let kind = to.split(":[").next().unwrap_or(&to);
            *counts.entry(format!("descriptors of {kind}")).or_default() += 1;
        }
        let status = fs::read_to_string(format!("{process}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.trim().strip_suffix(" kB"));
        let resident: u64 = resident.context("no VmRSS")?.parse()?;
        Ok(Self {
            counts,
            resident: 1_024 * resident,
        })
    }

    /// What is not as it was, or more than so many times the memory.
    pub(crate) fn faults(&self, before: &Self, memory: f64) -> impl Iterator<Item = String> {
        let mut faults = Vec::new();
        let names: BTreeSet<_> = self.counts.keys().chain(before.counts.keys()).collect();
        for name in names {
            let count = |state: &Self| state.counts.get(name).copied().unwrap_or(0);
            let (was, is) = (count(before), count(self));
            if was != is {
                faults.push(format!("{name}: {was} before, {is} now"));
            }
        }
        let (was, is) = (before.resident, self.resident);
        if is as f64 > was as f64 * memory {
            faults.push(format!("memory: {was} bytes before, {is} now"));
        }
        faults.into_iter()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.resident / 1_024)?;
        for (name, count) in &self.counts {
            write!(f, ", {name} {count}")?;
        }
        Ok(())
    }
}
