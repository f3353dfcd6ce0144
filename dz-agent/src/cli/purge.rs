//! `purge` removes routes, programs and pins that a dead agent has left, and lists them.
//!
//! What it removes is found by the pins, and by the programs that are on interfaces: those of an agent whose pins nobody
//! sees any more are known by their names. Routes go first: the interfaces that they are on are known by the programs, so
//! that a purge that is cut short can be repeated. Whatever is not known to be ours stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use super::arguments::PurgeOptions;
use super::output::print;
use crate::datapath::{MapReader, Pin, Stray, filters, strays, unfinished};
use crate::error::{ExitCode, FailWith, Failure};
use crate::host::lock::{self, InterfaceLock, PinDirLock};
use crate::net::Netlink;
use crate::net::links::{self, Interface};
use crate::net::routes::{Deleted, Routes};

/// Carries out `purge`.
///
/// # Errors
/// [`ExitCode::Busy`] while an agent runs, and then nothing is touched; [`ExitCode::Failure`] with
/// everything that could not be removed, after the rest has been.
pub async fn purge(options: &PurgeOptions) -> Result<(), Failure> {
    let pin_dir = &options.pin_dir;
    let there = pin_dir.try_exists();
    let there = there.fail_with(ExitCode::Failure, || pin_dir.display().to_string())?;
    let lock = there.then(|| PinDirLock::acquire(pin_dir));
    let _lock = lock.transpose().map_err(Failure::from)?;
    let pins = Pin::list(pin_dir).fail_with(ExitCode::Failure, || pin_dir.display().to_string())?;
    let netlink = Netlink::open().fail_with(ExitCode::Failure, || "netlink")?;
    let filtered = filters::list(&netlink).await.fail_with(
        ExitCode::Failure,
        || "reading the filters of the interfaces",
    )?;

    let mut named: BTreeSet<&str> = options.interfaces.iter().map(String::as_str).collect();
    named.extend(filtered.iter().map(|filter| filter.interface.as_str()));
    named.extend(pins.iter().filter_map(Pin::interface));
    let mut locked = BTreeMap::new();
    for interface in named {
        let lock = InterfaceLock::acquire(interface).map_err(Failure::from)?;
        locked.insert(interface.to_owned(), lock);
    }

    let mut report = Report::new(options.dry_run);
    report.found(pin_dir, &pins);
    let interfaces = links::list(&netlink).await;
    let interfaces = interfaces.fail_with(ExitCode::Failure, || "reading the interfaces")?;
    let mut strays = report.strays(pin_dir, &interfaces);
    for stray in &strays {
        let name = stray.interface.as_str();
        if locked.contains_key(name) {
            continue;
        }
        match InterfaceLock::acquire(name) {
            Ok(lock) => drop(locked.insert(name.to_owned(), lock)),
            // An agent that runs may have its pins elsewhere.
            Err(error) if error.is_busy() => {}
            Err(error) => report.faults.push(error.to_string()),
        }
    }
    strays.retain(|stray| locked.contains_key(&stray.interface));
    let routes = Routes::new(netlink.clone(), options.route_protocol);
    let removed = report.routes(&routes, &interfaces, &locked).await;
    report.note(removed.map_err(|error| format!("routes: {error:#}")));
    for stray in &strays {
        let (program, interface) = (&stray.program, &stray.interface);
        let what = format!("{program} on {interface} (its pin is not here)");
        report.remove(&what, || stray.detach());
    }
    let left = if options.dry_run {
        Vec::new()
    } else {
        let left = filters::detach(&netlink, &filtered).await;
        left.fail_with(
            ExitCode::Failure,
            || "reading the filters of the interfaces",
        )?
    };
    for filter in &filtered {
        let program = if filter.egress { "gate" } else { "program" };
        let what = format!("{program} on {} (tc filter)", filter.interface);
        report.remove(&what, || match left.contains(filter) {
            true => Err(io::Error::other("still there: is CAP_NET_ADMIN missing?")),
            false => Ok(()),
        });
    }
    for pin in &pins {
        let what = match pin {
            Pin::Link { interface, mode } => format!("program on {interface} ({mode})"),
            Pin::Gate(interface) => format!("gate on {interface}"),
            Pin::Map(name) => format!("map {name}"),
        };
        report.remove(&what, || pin.remove(pin_dir));
    }
    // Last, as the links above may hold programs with these maps.
    let unfinished = unfinished(pin_dir)?;
    for folder in &unfinished {
        let what = format!("unfinished takeover {}", folder.display());
        report.remove(&what, || fs::remove_dir_all(folder));
    }
    report.directory(pin_dir, pins.len() + unfinished.len());
    report.end()
}

/// Lists what was removed, and the faults of what could not be.
struct Report {
    dry_run: bool,
    text: String,
    removed: bool,
    faults: Vec<String>,
}

impl Report {
    const fn new(dry_run: bool) -> Self {
        Self {
            dry_run,
            text: String::new(),
            removed: false,
            faults: Vec::new(),
        }
    }

    /// Notes how many sessions and peers there were.
    fn found(&mut self, pin_dir: &Path, pins: &[Pin]) {
        if !pins.iter().any(|pin| matches!(pin, Pin::Map(_))) {
            return;
        }
        let count = || {
            let maps = MapReader::from_pins(pin_dir)?;
            Ok::<_, crate::datapath::MapError>((maps.sessions()?.len(), maps.peers()?.len()))
        };
        // A failure is only shown: maps of another layout are removed as well as ours.
        let found = count().map_or_else(
            |error| format!("found maps that this version cannot read: {error}"),
            |(sessions, peers)| format!("found {sessions} sessions, {peers} peers"),
        );
        self.text += &found.replace('\n', " ");
        self.text.push('\n');
    }

    fn say(&mut self, what: &str) {
        let verb = if self.dry_run {
            "would remove"
        } else {
            "removed"
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{verb} {what}");
        self.removed = true;
    }

    fn note(&mut self, result: Result<(), String>) {
        self.faults.extend(result.err());
    }

    fn remove(&mut self, what: &str, remove: impl FnOnce() -> io::Result<()>) {
        let result = if self.dry_run { Ok(()) } else { remove() };
        match result {
            Ok(()) => self.say(what),
            // Gone meanwhile, with its device, say.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.faults.push(format!("{what}: {error}")),
        }
    }

    /// Finds programs of ours that no pin here holds.
    fn strays(&mut self, pin_dir: &Path, interfaces: &[Interface]) -> Vec<Stray> {
        strays(pin_dir, interfaces).unwrap_or_else(|error| {
            self.faults.push(match error.raw_os_error() {
                Some(libc::EPERM) => {
                    "programs of ours without a pin here: nobody but CAP_SYS_ADMIN \
                                      finds them: run as root"
                        .to_owned()
                }
                _ => format!("programs of ours without a pin here: {error}"),
            });
            Vec::new()
        })
    }

    /// Removes the routes on interfaces that are locked. Those on others may be somebody else's, and are only named.
    async fn routes(
        &mut self,
        routes: &Routes,
        interfaces: &[Interface],
        locked: &BTreeMap<String, InterfaceLock>,
    ) -> anyhow::Result<()> {
        let mut others: BTreeMap<&str, u64> = BTreeMap::new();
        for route in routes.list(None).await? {
            // The routes of an interface go with it.
            let Some(name) = name_of(interfaces, route.ifindex) else {
                continue;
            };
            if !locked.contains_key(name) {
                *others.entry(name).or_default() += 1;
                continue;
            }
            let deleted = if self.dry_run {
                Ok(Deleted::Deleted)
            } else {
                routes.delete(route.dst, route.ifindex).await
            };
            match deleted {
                Ok(Deleted::Deleted) => self.say(&format!("route {}/32 dev {name}", route.dst)),
                Ok(Deleted::AlreadyGone) => {}
                Err(error) => self.faults.push(error.to_string()),
            }
        }
        let served = lock::served();
        for (name, count) in others
            .into_iter()
            .filter(|(name, _)| !served.contains(*name))
        {
            // Writing to a string cannot fail.
            let _ = writeln!(
                self.text,
                "left alone: routes of our protocol number on {name} ({count}): if a dead agent served it: \
                 `dz-agent purge --interface {name}`"
            );
        }
        Ok(())
    }

    /// Removes the pin directory, if nothing of anybody else's is in it.
    fn directory(&mut self, pin_dir: &Path, ours: usize) {
        let what = format!("pin directory {}", pin_dir.display());
        if self.dry_run {
            if fs::read_dir(pin_dir).is_ok_and(|files| files.count() == ours) {
                self.say(&what);
            }
        } else if fs::remove_dir(pin_dir).is_ok() {
            self.say(&what);
        }
    }

    fn end(mut self) -> Result<(), Failure> {
        if !self.removed && self.faults.is_empty() {
            self.text += "nothing to purge\n";
        }
        print(&self.text)?;
        if self.faults.is_empty() {
            return Ok(());
        }
        let text = format!("not removed: {}", self.faults.join("; "));
        Err(Failure::new(ExitCode::Failure, text))
    }
}

fn name_of(interfaces: &[Interface], ifindex: u32) -> Option<&str> {
    let mut interfaces = interfaces.iter();
    let found = interfaces.find(|interface| interface.ifindex == ifindex);
    found.map(|interface| interface.name.as_str())
}
