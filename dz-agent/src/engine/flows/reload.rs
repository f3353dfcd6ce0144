//! Reads the file of peers again, on SIGHUP or by request, and touches only peers that have changed.

use tracing::{error, info};

use crate::command::{Refusal, RefusalKind, Reloaded};
use crate::engine::configured::read_aside;
use crate::engine::decide::reload::objection;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::reloads::{AskedBy, FileRead};

impl<H: Hands> Engine<H> {
    /// Begins to read the file of peers again. [`Self::file_read`] goes on with it; the loop runs meanwhile.
    pub(crate) fn reload(&mut self, asked_by: AskedBy) {
        let refusal = if self.options.peers.is_none() {
            let text = "there is no file of peers to read again (--peers)";
            Refusal::new(RefusalKind::Conflict, text)
        } else if self.wants.reloads().is_reading() {
            if matches!(asked_by, AskedBy::Signal) {
                self.wants.reloads_mut().again();
            }
            let text = "the file of peers is still being read; is its disk there?";
            Refusal::new(RefusalKind::Unavailable, text)
        } else {
            let reading = read_aside(self.options.clone());
            self.wants.reloads_mut().begin(reading, asked_by);
            return;
        };
        answer(asked_by, Err(refusal));
    }

    /// Goes on when the file has been read: settles all peers. A file with faults changes nothing, and neither does
    /// one without most of the peers, unless a request insists.
    pub(crate) fn file_read(&mut self, read: FileRead) {
        if let Some(asked_by) = self.wants.reloads_mut().end() {
            let insists = matches!(asked_by, AskedBy::Request { force: true, .. });
            answer(asked_by, self.configure(read, insists));
        }
        if self.wants.reloads_mut().take_again() {
            self.reload(AskedBy::Signal);
        }
    }

    fn configure(&mut self, read: FileRead, insists: bool) -> Result<Reloaded, Refusal> {
        let read = read.map_err(|failure| failure.to_string());
        let (configured, policy) =
            read.map_err(|fault| Refusal::new(RefusalKind::Invalid, fault))?;
        let before = self.wants.configured();
        let objection = objection(&self.peers, before, (&configured, &policy));
        if let Some(objection) = objection.filter(|_| !insists) {
            let text = format!(
                "{objection}: nothing is changed; if that is meant, `dz-agent reload --force`"
            );
            return Err(Refusal::new(RefusalKind::Conflict, text));
        }
        let peers = configured.len();
        self.wants.configure(configured, policy);
        let settled = self.settle_all();
        self.tick();
        Ok(Reloaded {
            peers,
            added: settled.added,
            changed: settled.changed,
            removed: settled.removed,
        })
    }
}

/// Logs what a reload came to, and tells whoever asked for it.
fn answer(asked_by: AskedBy, outcome: Result<Reloaded, Refusal>) {
    match &outcome {
        Ok(Reloaded {
            peers,
            added,
            changed,
            removed,
        }) => info!(peers, added, changed, removed, "peers configured"),
        Err(refusal) => error!(%refusal, "file of peers: nothing is changed"),
    }
    if let AskedBy::Request { reply, .. } = asked_by {
        // Fails if the client is gone.
        let _ = reply.send(outcome);
    }
}
