//! `dz_sessions`, and the memory of its elements.
//!
//! A kernel program that has found an element keeps its address. When the agent deletes the session
//! meanwhile, the program reads what was left there, and when the agent inserts another one, the
//! program may read that: the kernel gives the memory that was freed last to whoever inserts next.

use std::collections::BTreeMap;

use dz_common::map::{Destination, SessionEntry, SessionKey};
use nix::errno::Errno;

/// The address of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element(usize);

/// Sessions by where they are found.
#[derive(Clone, Debug)]
pub struct Sessions {
    room: usize,
    memory: Vec<SessionEntry>,
    found: BTreeMap<Destination, Element>,
    /// The one that was freed last is at the end.
    free: Vec<Element>,
}

impl Sessions {
    /// Makes an empty map with room for so many sessions.
    pub(super) const fn new(room: usize) -> Self {
        Self {
            room,
            memory: Vec::new(),
            found: BTreeMap::new(),
            free: Vec::new(),
        }
    }

    /// Inserts a session (`BPF_NOEXIST`).
    ///
    /// # Errors
    /// `EEXIST`: there is one at this place; `E2BIG`: there is no room.
    pub(super) fn insert(
        &mut self,
        at: Destination,
        entry: &SessionEntry,
    ) -> Result<Element, Errno> {
        if self.found.contains_key(&at) {
            return Err(Errno::EEXIST);
        }
        if self.found.len() == self.room {
            return Err(Errno::E2BIG);
        }
        let element = match self.free.pop() {
            Some(element) => {
                self.memory[element.0] = *entry;
                element
            }
            None => {
                self.memory.push(*entry);
                Element(self.memory.len() - 1)
            }
        };
        self.found.insert(at, element);
        Ok(element)
    }

    /// Deletes the session at a place. Its memory stays as it is until it is given to another.
    ///
    /// # Errors
    /// `ENOENT`: there is none.
    pub(super) fn delete(&mut self, at: &Destination) -> Result<(), Errno> {
        let element = self.found.remove(at).ok_or(Errno::ENOENT)?;
        self.free.push(element);
        Ok(())
    }

    /// Finds the session by a key's interface and with its peer. Whether it is that of the key's local
    /// address [`Sessions::lock`] finds out.
    #[must_use]
    pub fn find(&self, key: &SessionKey) -> Option<Element> {
        self.found.get(&key.destination()).copied()
    }

    /// Returns what an element holds, whosever it is by now.
    #[must_use]
    pub fn at(&self, element: Element) -> &SessionEntry {
        &self.memory[element.0]
    }

    /// Takes the lock of an element that was found for `key`, if it still is that session's: the check of
    /// `Locked::new` in dz-ebpf.
    pub(super) fn lock(
        &mut self,
        element: Element,
        key: &SessionKey,
        slot: u32,
    ) -> Option<&mut SessionEntry> {
        let entry = &mut self.memory[element.0];
        (entry.key == *key && entry.slot == slot).then_some(entry)
    }

    /// Shows every session, by where it is found.
    pub fn iter(&self) -> impl Iterator<Item = (&Destination, &SessionEntry)> {
        let at = |(place, element): (_, &Element)| (place, &self.memory[element.0]);
        self.found.iter().map(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{entry, up};

    #[test]
    fn a_place_has_one_session_and_the_map_so_many() {
        let mut sessions = Sessions::new(2);
        let [a, b, c] = [1, 2, 3].map(|peer| entry([10, 0, 0, peer]));
        assert!(sessions.insert(a.key.destination(), &a).is_ok());
        let again = sessions.insert(a.key.destination(), &a);
        assert_eq!(again, Err(Errno::EEXIST));
        assert!(sessions.insert(b.key.destination(), &b).is_ok());
        assert_eq!(sessions.insert(c.key.destination(), &c), Err(Errno::E2BIG));
        // A full map that has the place says that first.
        assert_eq!(sessions.insert(b.key.destination(), &b), Err(Errno::EEXIST));
        assert_eq!(sessions.delete(&a.key.destination()), Ok(()));
        assert_eq!(sessions.delete(&a.key.destination()), Err(Errno::ENOENT));
        assert!(sessions.insert(c.key.destination(), &c).is_ok());
        let peers: Vec<_> = sessions.iter().map(|(place, _)| place.peer[3]).collect();
        assert_eq!(peers, [2, 3]);
    }

    #[test]
    fn who_found_a_session_notices_that_its_memory_is_anothers() {
        let mut sessions = Sessions::new(2);
        let old = up([10, 0, 0, 1]);
        let element = sessions.insert(old.key.destination(), &old);
        assert_eq!(element.ok(), sessions.find(&old.key));
        let element = sessions.find(&old.key).unwrap();
        assert!(sessions.lock(element, &old.key, old.slot).is_some());
        assert!(sessions.lock(element, &old.key, old.slot + 1).is_none());

        sessions.delete(&old.key.destination()).unwrap();
        assert_eq!(sessions.find(&old.key), None);
        // Deleted, but not written yet: the program still may step it.
        assert!(sessions.lock(element, &old.key, old.slot).is_some());

        let new = entry([10, 0, 0, 2]);
        let reused = sessions.insert(new.key.destination(), &new);
        assert_eq!(reused, Ok(element), "freed last, given first");
        assert!(sessions.lock(element, &old.key, old.slot).is_none());
        assert_eq!(*sessions.at(element), new);
    }

    #[test]
    fn a_session_with_another_local_address_is_found_and_not_locked() {
        let mut sessions = Sessions::new(1);
        let entry = entry([10, 0, 0, 1]);
        sessions.insert(entry.key.destination(), &entry).unwrap();
        let other = SessionKey {
            local: [10, 0, 0, 77],
            ..entry.key
        };
        let element = sessions.find(&other).unwrap();
        assert!(sessions.lock(element, &other, entry.slot).is_none());
    }
}
