//! Access to a live session: its lock, and the check that it still is the one that was looked up.

use core::ops::{Deref, DerefMut};

use aya_ebpf::helpers::{bpf_spin_lock, bpf_spin_unlock};
use dz_common::map::{SessionEntry, SessionKey};

use crate::maps::SESSIONS;

/// Finds the session by a key's interface and peer. [`Locked::new`] finds out whether its local address
/// is that of the key.
#[inline(always)]
pub fn find(key: &SessionKey) -> Option<*mut SessionEntry> {
    SESSIONS.get_ptr_mut(key.destination())
}

/// A session whose lock is held. Between here and the drop no helper may be called, nor any
/// function that the compiler does not inline: the verifier allows neither under a lock.
pub struct Locked(*mut SessionEntry);

impl Locked {
    /// Takes the lock of an entry that was found for `key`, if it is that session's: the agent may
    /// have deleted it and given the memory to another meanwhile.
    #[inline(always)]
    pub fn new(entry: *mut SessionEntry, key: &SessionKey, slot: u32) -> Option<Self> {
        // SAFETY: map values stay allocated while a program runs; the lock is the value's own.
        unsafe { bpf_spin_lock((&raw mut (*entry).lock).cast()) };
        let locked = Self(entry);
        if locked.key != *key || locked.slot != slot {
            return None;
        }
        Some(locked)
    }
}

impl Deref for Locked {
    type Target = SessionEntry;

    #[inline(always)]
    fn deref(&self) -> &SessionEntry {
        // SAFETY: the lock is held.
        unsafe { &*self.0 }
    }
}

impl DerefMut for Locked {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut SessionEntry {
        // SAFETY: the lock is held.
        unsafe { &mut *self.0 }
    }
}

impl Drop for Locked {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: taken in `new`.
        unsafe { bpf_spin_unlock((&raw mut (*self.0).lock).cast()) };
    }
}

/// Reads slot and counter block of an entry, without the lock: they are set before the entry can
/// be found and never change. Should the memory have become another session's, [`Locked::new`]
/// finds it out.
#[inline(always)]
pub fn identity(entry: *mut SessionEntry) -> (u32, u32) {
    // SAFETY: map values stay allocated while a program runs.
    unsafe { ((*entry).slot, (*entry).block) }
}

/// Reads our address in a session, as its [`identity`] is read.
#[inline(always)]
pub fn local(entry: *mut SessionEntry) -> [u8; 4] {
    // SAFETY: map values stay allocated while a program runs.
    unsafe { (*entry).key.local }
}

/// Reads why a session does not count as Up, and whether its changes are told, as [`min_ttl`] is read.
#[inline(always)]
pub fn held(entry: *mut SessionEntry) -> u8 {
    // SAFETY: map values stay allocated while a program runs; volatile, for it is read without the lock.
    unsafe { (&raw const (*entry).held).read_volatile() }
}

/// Reads the fewest hops that a packet of the session may have left, as its [`identity`] is read: a byte
/// is stored as a whole.
#[inline(always)]
pub fn min_ttl(entry: *mut SessionEntry) -> u8 {
    // SAFETY: map values stay allocated while a program runs; volatile, for it is read without the lock.
    unsafe { (&raw const (*entry).session.timers.min_ttl).read_volatile() }
}
