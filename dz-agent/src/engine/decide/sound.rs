//! Tells sessions that can be served from those whose deadline slot cannot be theirs, whoever has written that.

use dz_common::map::{SessionEntry, SessionKey};

use crate::hash::HashMap;

/// A session that cannot be served, and why.
pub(crate) type Unsound = (SessionKey, &'static str);

/// Removes the sessions that cannot be served from those that were read, and returns them. Of two with one slot, the
/// younger stays: the slot was prepared for it last.
pub(crate) fn take_unsound(sessions: &mut Vec<SessionEntry>, slots: u32) -> Vec<Unsound> {
    let mut owners: HashMap<u32, (u32, SessionKey)> = HashMap::default();
    for entry in sessions.iter() {
        let this = (entry.generation, entry.key);
        let owner = owners.entry(entry.slot).or_insert(this);
        if owner.0 < entry.generation {
            *owner = this;
        }
    }
    let mut unsound = Vec::new();
    sessions.retain(|entry| {
        let why = if entry.slot >= slots {
            "its deadline slot is out of range"
        } else if owners[&entry.slot].1 != entry.key {
            "another session has its deadline slot"
        } else {
            return true;
        };
        unsound.push((entry.key, why));
        false
    });
    unsound
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn entry(peer: u8, slot: u32, generation: u32) -> SessionEntry {
        SessionEntry {
            slot,
            generation,
            ..fixture::entry([10, 0, 0, peer])
        }
    }

    #[test]
    fn a_slot_has_one_session() {
        let mut sessions = vec![
            entry(1, 0, 1),
            entry(2, 1, 2),
            entry(3, 0, 3),
            entry(4, 9, 4),
        ];
        let unsound = take_unsound(&mut sessions, 4);
        let peers = |keys: &mut dyn Iterator<Item = SessionKey>| {
            keys.map(|key| key.peer[3]).collect::<Vec<_>>()
        };
        assert_eq!(peers(&mut unsound.iter().map(|(key, _)| *key)), [1, 4]);
        assert!(unsound[0].1.contains("another") && unsound[1].1.contains("range"));
        assert_eq!(peers(&mut sessions.iter().map(|entry| entry.key)), [2, 3]);
        assert_eq!(take_unsound(&mut sessions, 4), []);
    }

    #[test]
    fn of_two_of_one_generation_one_stays() {
        let mut sessions = vec![entry(1, 0, 1), entry(2, 0, 1)];
        assert_eq!(take_unsound(&mut sessions, 4).len(), 1);
        assert_eq!(sessions.len(), 1);
    }
}
