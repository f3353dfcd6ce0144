//! Reads the file of peers again (SIGHUP), and touches only peers that have changed.

use tracing::{error, info};

use crate::engine::configured::read;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;

impl<H: Hands> Engine<H> {
    /// Reads the file of peers again, and settles all peers. A file with faults changes nothing.
    pub(crate) fn reload(&mut self) {
        let Some(path) = self.options.peers.clone() else {
            info!("SIGHUP: there is no file of peers to read again (--peers)");
            return;
        };
        let (configured, policy) = match read(&self.options) {
            Ok(read) => read,
            Err(failure) => {
                error!(%failure, "SIGHUP: nothing is changed");
                return;
            }
        };
        let peers = configured.len();
        self.wants.configure(configured, policy);
        let settled = self.settle_all();
        self.tick();
        let (added, changed, removed) = (settled.added, settled.changed, settled.removed);
        info!(file = %path.display(), peers, added, changed, removed, "peers configured");
    }
}
