//! Copies the entries of an earlier layout's maps.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use dz_common::map::{Config, SessionEntry, name};
use tracing::warn;
use zerocopy::{IntoBytes, TryFromBytes};

use super::btf::{Btf, Shape};
use super::convert::Conversion;
use super::types::{kept_types, our_types};
use crate::datapath::clock::now_ns;
use crate::datapath::layout::abi_version;
use crate::datapath::made::is_there;
use crate::datapath::maps::Maps;
use crate::datapath::raw::map::RawMap;

/// Added to the measured time of copying, for a system call that takes longer.
const SLACK: Duration = Duration::from_millis(20);

/// A map in both layouts, with the conversions of its keys and values.
struct Pair {
    name: &'static str,
    old: RawMap,
    new: RawMap,
    key: Conversion,
    value: Conversion,
    /// Whether values have a lock.
    locked: bool,
}

/// The maps that are copied: settings, heartbeat, those with keys, and the counters. The new agent writes the entries
/// of the others anew, or reads them in sessions.
pub(super) struct Copier {
    /// None: an old layout without them, or where they mean something else, so that ours serve from the start.
    config: Option<Pair>,
    heartbeat: Option<Pair>,
    sessions: Pair,
    /// How many deadline slots there are in the old layout.
    old_slots: u32,
    counters: Pair,
    others: Vec<Pair>,
}

impl Copier {
    /// Finds the conversion of each map, or why there is none. Types that the kernel does not tell us are read in the state directory.
    pub(super) fn new(old: &Path, new: &Path, state_dir: &Path) -> Result<Self, String> {
        let layout = abi_version(old).map_err(|failure| failure.to_string())?;
        let layout = layout.unwrap_or(0);
        let kept = kept_types(state_dir, layout);
        let kept = kept.map_err(|error| format!("types of layout {layout}: {error}"))?;
        let kept = [kept, Some(our_types().map_err(|error| error.to_string())?)];
        let old_slots = RawMap::from_pin(&old.join(name::DEADLINES));
        let old_slots = old_slots.map_err(|error| format!("{}: {error}", name::DEADLINES))?;
        let mut others = Vec::new();
        for name in [name::LOCALS, name::PEERS, name::CONFINED] {
            // A map that the old layout does not have is filled by the new agent.
            let pin = old.join(name);
            if is_there(&pin).map_err(|error| format!("{}: {error}", pin.display()))? {
                others.push(Pair::new(name, old, new, &kept)?);
            }
        }
        Ok(Self {
            config: pair_or_none(name::CONFIG, old, new, &kept)?,
            heartbeat: pair_or_none(name::HEARTBEAT, old, new, &kept)?,
            sessions: Pair::new(name::SESSIONS, old, new, &kept)?,
            old_slots: old_slots.max_entries(),
            counters: Pair::new(name::COUNTERS, old, new, &kept)?,
            others,
        })
    }

    /// Copies the settings and the heartbeat: until the start is over, the earlier agent's count. `ours`: the values of
    /// fields that the old layout does not have.
    pub(super) fn settings(&self, maps: &Maps, ours: Config) -> Result<(), String> {
        match &self.heartbeat {
            Some(pair) => pair.copy(&[0; 4])?,
            None => maps.beat(now_ns()),
        }
        let mut value = ours.as_bytes().to_vec();
        if let Some(pair) = &self.config {
            let old = pair.old.get(&[0; 4], pair.locked);
            let old = old.map_err(|error| pair.failed(&error))?;
            // A value that means nothing here leaves ours.
            if pair.value.convert_onto(&old, &mut value).is_err() {
                value = ours.as_bytes().to_vec();
            }
        }
        let config = Config::try_read_from_bytes(&value).unwrap_or(ours);
        maps.set_config(Config {
            abi_version: ours.abi_version,
            version: ours.version,
            groups: ours.groups,
            ..config
        });
        Ok(())
    }

    /// Copies the maps that no kernel program writes.
    pub(super) fn settled(&self) -> Result<(), String> {
        for pair in &self.others {
            // Left by a takeover that was cut short.
            for key in pair.new.keys().map_err(|error| pair.failed(&error))? {
                pair.new.remove(&key).map_err(|error| pair.failed(&error))?;
            }
            for key in pair.old.keys().map_err(|error| pair.failed(&error))? {
                pair.copy(&key)?;
            }
        }
        Ok(())
    }

    /// Copies the counters, which go on from there.
    pub(super) fn counters(&self) -> Result<(), String> {
        let pair = &self.counters;
        if pair.old.max_entries() > pair.new.max_entries() {
            return Err(format!("{}: there is less room in this version", pair.name));
        }
        (0..pair.old.max_entries()).try_for_each(|block| pair.copy(&block.to_ne_bytes()))
    }

    /// Copies the sessions of some interfaces, with their deadlines, twice: the first time shows how
    /// long it takes, and that it can be done. Changes by packets in the old maps after the second time
    /// are lost as if the packets had got lost on the wire; so that no session expires for it, each
    /// deadline is a detection time, and the time of copying, later than it was or than now.
    /// Returns how many there are.
    pub(super) fn sessions(
        &self,
        maps: &Maps,
        slots: u32,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<usize, String> {
        let start = Instant::now();
        self.sessions_once(maps, slots, &wanted, SLACK)?;
        let slack = start.elapsed() * 2 + SLACK;
        let (copied, left) = self.sessions_once(maps, slots, &wanted, slack)?;
        for key in left {
            self.sessions
                .left_behind(&key, "it cannot be read or served");
        }
        Ok(copied)
    }

    /// Returns how many it has copied, and the keys of those that it could not.
    fn sessions_once(
        &self,
        maps: &Maps,
        slots: u32,
        wanted: &impl Fn(u32) -> bool,
        slack: Duration,
    ) -> Result<(usize, Vec<Vec<u8>>), String> {
        let pair = &self.sessions;
        let (mut entries, left) = self.read_sessions()?;
        give_slots(&mut entries, slots)?;
        let mut copied = HashSet::new();
        for mut entry in entries {
            if !wanted(entry.key.ifindex) {
                continue;
            }
            extend(&mut entry, now_ns(), slack);
            // The deadline first: a scan that misses the session leaves the slot alone.
            maps.set_slot(&entry);
            let key = entry.key.destination();
            let put = pair.new.put(key.as_bytes(), entry.as_bytes());
            put.map_err(|error| pair.failed(&error))?;
            copied.insert(key);
        }
        Ok((copied.len(), left))
    }

    /// Reads the sessions, and the keys of those that mean nothing in our layout.
    fn read_sessions(&self) -> Result<(Vec<SessionEntry>, Vec<Vec<u8>>), String> {
        let pair = &self.sessions;
        let (mut entries, mut left) = (Vec::new(), Vec::new());
        for key in pair.old.keys().map_err(|error| pair.failed(&error))? {
            let value = pair.old.get(&key, pair.locked);
            let value = value.map_err(|error| pair.failed(&error))?;
            let found = pair.key.convert(&key).ok().zip(session(pair, &value));
            let sound = |(key, entry): &(Vec<u8>, SessionEntry)| {
                entry.slot < self.old_slots && *key == entry.key.destination().as_bytes()
            };
            match found.filter(sound) {
                Some((_, entry)) => entries.push(entry),
                None => left.push(key),
            }
        }
        Ok((entries, left))
    }
}

/// Reads a session of the old layout; none if it means nothing in ours.
fn session(pair: &Pair, value: &[u8]) -> Option<SessionEntry> {
    let value = pair.value.convert(value).ok()?;
    SessionEntry::try_read_from_bytes(&value).ok()
}

/// Gives the sessions other slots whose own there is none of where there are fewer, the same ones each time it is
/// asked: a takeover that was cut short has copied some of them.
fn give_slots(entries: &mut [SessionEntry], slots: u32) -> Result<(), String> {
    let taken: HashSet<_> = entries.iter().map(|entry| entry.slot).collect();
    let mut free = (0..slots).filter(|slot| !taken.contains(slot));
    entries.sort_unstable_by_key(|entry| entry.key);
    for entry in entries.iter_mut().filter(|entry| entry.slot >= slots) {
        entry.slot = free
            .next()
            .ok_or_else(|| format!("{}: more sessions than there are to be", name::SESSIONS))?;
    }
    Ok(())
}

/// Makes a pair of two maps, unless there is no old one, or they have nothing in common.
fn pair_or_none(
    name: &'static str,
    old: &Path,
    new: &Path,
    kept: &[Option<Vec<u8>>; 2],
) -> Result<Option<Pair>, String> {
    match RawMap::from_pin(&old.join(name)) {
        Ok(_) => Ok(Pair::new(name, old, new, kept).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Gives a session one detection time more, and the time that copying takes.
fn extend(entry: &mut SessionEntry, now_ns: u64, slack: Duration) {
    let session = &mut entry.session;
    if session.detect_deadline_ns != 0 {
        let slack_ns = u64::try_from(slack.as_nanos()).unwrap_or(0);
        let from_ns = session.detect_deadline_ns.max(now_ns);
        session.detect_deadline_ns = from_ns + session.detect_time_ns() + slack_ns;
    }
}

impl Pair {
    /// `kept`: BTF of the old and the new layout, as far as it is to be had without the kernel.
    fn new(
        name: &'static str,
        old: &Path,
        new: &Path,
        kept: &[Option<Vec<u8>>; 2],
    ) -> Result<Self, String> {
        let open = |directory: &Path| {
            RawMap::from_pin(&directory.join(name)).map_err(|error| format!("{name}: {error}"))
        };
        let (old, new) = (open(old)?, open(new)?);
        let same_kind =
            old.is_hash() == new.is_hash() && old.is_per_cpu_array() == new.is_per_cpu_array();
        if !same_kind {
            return Err(format!("{name}: a map of another kind"));
        }
        let (old_key, old_value) = types(name, &old, kept[0].as_deref())?;
        let (new_key, new_value) = types(name, &new, kept[1].as_deref())?;
        let fault = |error| format!("{name}: {error}");
        Ok(Self {
            name,
            key: Conversion::new(&old_key, &new_key).map_err(fault)?,
            value: Conversion::new(&old_value, &new_value).map_err(fault)?,
            locked: old_value.field("lock").is_some(),
            old,
            new,
        })
    }

    /// Copies one entry, if it means something in the new layout; of a per-CPU map with the values of every CPU.
    fn copy(&self, key: &[u8]) -> Result<(), String> {
        let failed = |error| self.failed(&error);
        let old = self.old.get(key, self.locked).map_err(failed)?;
        let length = self.new.value_len().map_err(failed)?;
        let cpus = if self.old.is_per_cpu_array() {
            aya::util::nr_cpus().map_err(|(_, error)| self.failed(&error))?
        } else {
            1
        };
        let mut new = Vec::with_capacity(length);
        for value in old.chunks(old.len() / cpus) {
            match self.value.convert(value) {
                Ok(value) => new.extend(value),
                Err(error) => {
                    self.left_behind(key, &error);
                    return Ok(());
                }
            }
            new.resize(new.len().next_multiple_of(length / cpus), 0);
        }
        match self.key.convert(key) {
            Ok(key) => self.new.put(&key, &new).map_err(failed),
            Err(error) => {
                self.left_behind(key, &error);
                Ok(())
            }
        }
    }

    /// Says that an entry is not taken over.
    fn left_behind(&self, key: &[u8], why: &str) {
        let (map, key) = (self.name, format!("{key:02x?}"));
        warn!(map, key, why, "entry not taken over");
    }

    fn failed(&self, error: &std::io::Error) -> String {
        format!("{}: {error}", self.name)
    }
}

/// Reads the types of a map's keys and values; where the kernel does not tell them to us, from BTF that was kept.
fn types(name: &str, map: &RawMap, kept: Option<&[u8]>) -> Result<(Shape, Shape), String> {
    let untyped = || format!("{name}: without type information");
    let (key, value) = map.type_ids().ok_or_else(untyped)?;
    let bytes = match (map.btf(), kept) {
        (Err(error), Some(kept)) if error.raw_os_error() == Some(libc::EPERM) => Cow::from(kept),
        (Err(error), _) if error.raw_os_error() == Some(libc::EPERM) => {
            return Err(format!(
                "{name}: its types are told to CAP_SYS_ADMIN alone: run `dz-agent prepare` as root first"
            ));
        }
        (btf, _) => Cow::from(btf.map_err(|error| format!("{name}: {error}"))?),
    };
    let shapes = || {
        let btf = Btf::parse(&bytes)?;
        Some((btf.shape(key)?, btf.shape(value)?))
    };
    shapes().ok_or_else(|| format!("{name}: types that this version does not understand"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn only_sessions_beyond_the_slots_get_another_one() {
        let entry = |last: u8, slot| {
            let mut entry = fixture::entry([10, 9, 0, last]);
            entry.slot = slot;
            entry
        };
        let entries = [entry(3, 900), entry(1, 1), entry(2, 800), entry(4, 0)];
        let given = |mut entries: Vec<SessionEntry>| {
            give_slots(&mut entries, 4)?;
            entries.sort_unstable_by_key(|entry| entry.key);
            let slots = entries.iter().map(|entry| entry.slot);
            Ok::<Vec<u32>, String>(slots.collect())
        };
        assert_eq!(given(entries.to_vec()).unwrap(), [1, 2, 3, 0]);
        let mut other_order = entries.to_vec();
        other_order.reverse();
        assert_eq!(given(other_order).unwrap(), [1, 2, 3, 0]);
        let mut many = entries.to_vec();
        many.push(entry(5, 700));
        assert!(given(many).is_err());
    }
}
