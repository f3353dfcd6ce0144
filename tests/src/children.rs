//! The children of all tests: what they have said so far, and their end where a test does not see to it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Log = Mutex<String>;

/// By titles, for as long as somebody else keeps them.
static LOGS: Mutex<Vec<(String, Weak<Log>)>> = Mutex::new(Vec::new());

/// Makes what a child prints known to [`logs`].
pub(crate) fn keep_log(title: &str, log: &Arc<Log>) {
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    logs.retain(|(_, log)| log.strong_count() > 0);
    logs.push((title.to_owned(), Arc::downgrade(log)));
}

/// What the children that are there have printed so far, by their titles.
pub(crate) fn logs() -> Vec<(String, String)> {
    let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    let logs = logs.iter().filter_map(|(title, log)| {
        let log = log.upgrade()?;
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        Some((title.clone(), log.clone()))
    });
    logs.collect()
}

/// Kills every process that this one has started, and those that they have. Returns the number and the
/// command line of each.
pub(crate) fn kill_descendants() -> BTreeMap<u32, String> {
    let mut killed = BTreeMap::new();
    // More than once, for others may be started meanwhile; not for ever, for the kernel may hold one.
    for _ in 0..100 {
        let descendants = descendants(std::process::id(), &running());
        if descendants.is_empty() {
            break;
        }
        for pid in descendants {
            killed.entry(pid).or_insert_with(|| command_line(pid));
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
    killed
}

fn command_line(pid: u32) -> String {
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.replace('\0', " ").trim_end().to_owned()
}

/// The processes that have not ended, with their parents.
fn running() -> HashMap<u32, u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        Some((pid, parent(&stat)?))
    });
    processes.collect()
}

/// The parent of a process that has not ended, by its `/proc/PID/stat`.
fn parent(stat: &str) -> Option<u32> {
    // The name is in parentheses, and may have some.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let has_ended = ["Z", "X"].contains(&fields.next()?);
    fields.next()?.parse().ok().filter(|_| !has_ended)
}

fn descendants(of: u32, parents: &HashMap<u32, u32>) -> Vec<u32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = parents.iter().filter(|(_, of)| **of == parent);
        found.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_who_has_started_a_process() {
        assert_eq!(parent("7 (sh) S 3 7 7 0"), Some(3));
        assert_eq!(parent("7 (a) R 9) (b) T 3 7 7 0"), Some(3));
        assert_eq!(parent("7 (sh) Z 3 7 7 0"), None);
    }

    #[test]
    fn finds_children_of_children() {
        let parents = HashMap::from([(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (9, 5)]);
        let mut found = descendants(5, &parents);
        found.sort_unstable();
        assert_eq!(found, [6, 7, 9]);
        assert!(descendants(8, &parents).is_empty());
    }
}
