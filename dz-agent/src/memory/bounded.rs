//! A hash map of the kernel (`BPF_MAP_TYPE_HASH`), all of whose elements were allocated when it was made.

use std::collections::BTreeMap;

use nix::errno::Errno;

/// Holds at most as many entries as it was made for.
#[derive(Clone, Debug)]
pub(super) struct Bounded<K, V> {
    room: usize,
    entries: BTreeMap<K, V>,
}

impl<K: Ord, V> Bounded<K, V> {
    /// Makes an empty one with room for so many entries.
    pub(super) const fn new(room: usize) -> Self {
        Self {
            room,
            entries: BTreeMap::new(),
        }
    }

    /// Returns the value of a key.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// Writes the value of a key, new or not (`BPF_ANY`).
    ///
    /// # Errors
    /// `E2BIG`: the key is new, and there is no room.
    pub(super) fn update(&mut self, key: K, value: V) -> Result<(), Errno> {
        if self.entries.len() == self.room && !self.entries.contains_key(&key) {
            return Err(Errno::E2BIG);
        }
        self.entries.insert(key, value);
        Ok(())
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// `ENOENT`: there is none with this key.
    pub(super) fn delete(&mut self, key: &K) -> Result<(), Errno> {
        self.entries.remove(key).map(|_| ()).ok_or(Errno::ENOENT)
    }

    /// Shows every entry, in the order of keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_map_refuses_new_keys_alone() {
        let mut map = Bounded::new(2);
        assert_eq!(map.update(1, 'a'), Ok(()));
        assert_eq!(map.update(2, 'b'), Ok(()));
        assert_eq!(map.update(3, 'c'), Err(Errno::E2BIG));
        assert_eq!(map.update(2, 'd'), Ok(()));
        assert_eq!(map.delete(&1), Ok(()));
        assert_eq!(map.update(3, 'c'), Ok(()));
        let entries: Vec<_> = map.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(entries, [(2, 'd'), (3, 'c')]);
    }

    #[test]
    fn what_is_not_there_cannot_be_deleted() {
        let mut map: Bounded<u8, u8> = Bounded::new(1);
        assert_eq!(map.delete(&1), Err(Errno::ENOENT));
        assert_eq!(map.get(&1), None);
    }
}
