//! Gives up entries of the maps that cannot be read or served, each with a line in the log: one that somebody has
//! written by hand, or an agent with other rules, costs itself and nothing else. If it is wanted, it is made anew.

use std::net::Ipv4Addr;

use dz_common::map::SessionEntry;
use tracing::warn;

use crate::datapath::{MapError, Unreadable};
use crate::engine::decide::sound::take_unsound;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;

impl<H: Hands> Engine<H> {
    /// Reads the sessions, and deletes those that cannot be read or served.
    ///
    /// # Errors
    /// The kernel refuses to read them.
    pub(crate) fn read_sessions(&mut self) -> Result<Vec<SessionEntry>, MapError> {
        let mut unreadable = Vec::new();
        let mut sessions = self.hands.sessions(|entry| unreadable.push(entry))?;
        self.discard(&unreadable);
        // Those that are known have been looked at when they were adopted.
        if self.sessions.are(&sessions) {
            return Ok(sessions);
        }
        let unsound = take_unsound(&mut sessions, self.hands.slots());
        for (key, why) in &unsound {
            let peer = Ipv4Addr::from(key.peer);
            warn!(%peer, why, "session deleted: it cannot be served");
            if let Err(error) = self.hands.delete_session(key) {
                warn!(%peer, %error, "session not deleted; tried again in some seconds");
            }
        }
        if !unsound.is_empty() {
            self.rest();
        }
        Ok(sessions)
    }

    /// Deletes entries that this version cannot read.
    pub(crate) fn discard(&mut self, entries: &[Unreadable]) {
        for entry in entries {
            let (map, key) = (entry.map, format!("{:02x?}", entry.key));
            warn!(map, key, "entry deleted: this version cannot read it");
            if let Err(error) = self.hands.discard(entry) {
                warn!(map, key, %error, "entry not deleted; tried again in some seconds");
            }
        }
        if !entries.is_empty() {
            self.rest();
        }
    }

    /// Waits for programs that may have a deleted entry: what is inserted next may get its memory.
    fn rest(&self) {
        if let Err(error) = self.hands.wait_for_programs() {
            warn!(%error, "a kernel program may still have the memory of a deleted entry");
        }
    }
}
