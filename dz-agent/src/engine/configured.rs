//! Peers of the configuration file: read at start and on SIGHUP, and then only what changed is
//! touched. They come back after a reboot, which those of the API do not.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context;
use dz_common::map::{Origin, Peer, PeerKey};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::Engine;
use super::reconcile::peer_key;
use crate::batch::Batch;
use crate::cli::RunOptions;
use crate::error::{ExitCode, Failure};

/// What the file asks for.
pub(super) type Configured = HashMap<PeerKey, Peer>;

/// Reads the file; without one nothing is configured.
///
/// # Errors
/// [`ExitCode::Usage`] with everything that is wrong with it.
pub(super) fn read(options: &RunOptions) -> Result<Configured, Failure> {
    let Some(path) = &options.peers else {
        return Ok(Configured::new());
    };
    let mut configured = Configured::new();
    let mut faults = Vec::new();
    for (line, mut spec) in Batch::configured(path)? {
        let interface = match (spec.interface.take(), options.interfaces.as_slice()) {
            (Some(name), served) if served.contains(&name) => name,
            (Some(name), _) => {
                faults.push(format!("line {line}: {name} is not served by this agent"));
                continue;
            }
            (None, [only]) => only.clone(),
            (None, _) => {
                faults.push(format!(
                    "line {line}: several interfaces are served: name one"
                ));
                continue;
            }
        };
        let peer = Peer {
            origin: Origin::Config,
            ..spec.peer(&options.timers())
        };
        if configured
            .insert(peer_key(&interface, spec.peer), peer)
            .is_some()
        {
            let text = format!(
                "line {line}: peer {} of {interface} is named twice",
                spec.peer
            );
            faults.push(text);
        }
    }
    if configured.len() > options.max_sessions as usize {
        faults.push(format!(
            "{} peers, --max-sessions is {}",
            configured.len(),
            options.max_sessions
        ));
    }
    if faults.is_empty() {
        return Ok(configured);
    }
    let text = format!("{}: {}", path.display(), faults.join("; "));
    Err(Failure::new(ExitCode::Usage, text))
}

/// Whether a peer is what the file says, whoever asked for it.
pub(super) fn same(a: &Peer, b: &Peer) -> bool {
    let origin = Origin::Api;
    Peer { origin, ..*a } == Peer { origin, ..*b }
}

impl Engine {
    /// SIGHUP: reads the file again. One that cannot be read changes nothing.
    pub(super) fn reload(&mut self) {
        let Some(path) = self.options.peers.clone() else {
            info!("SIGHUP: there is no file of peers to read again (--peers)");
            return;
        };
        match read(&self.options) {
            Ok(configured) => self.configure(configured, &path),
            Err(failure) => error!(%failure, "SIGHUP: nothing is changed"),
        }
    }

    /// Makes the configured peers those of the file.
    pub(super) fn configure(&mut self, configured: Configured, path: &Path) {
        let wanted = configured.len();
        let stale = |(key, peer): &(&PeerKey, &Peer)| match configured.get(*key) {
            Some(wanted) => !same(wanted, peer),
            None => peer.origin == Origin::Config,
        };
        let stale: Vec<_> = self
            .peers
            .iter()
            .filter(stale)
            .map(|(key, _)| *key)
            .collect();
        let removed = stale.iter().filter(|key| !configured.contains_key(key));
        let (removed, changed) = (removed.count(), stale.len());
        if !stale.is_empty() {
            // Nobody waits: routes that are stuck are logged and retried by themselves.
            let (reply, _) = oneshot::channel();
            self.disconnect_keys(stale.clone(), reply);
            // A refused commit is not, for then nothing has begun.
            for key in stale.iter().filter(|key| self.peers.contains_key(key)) {
                let address = Ipv4Addr::from(key.peer);
                warn!(peer = %address, "not given up, the kernel refused; read the file again (SIGHUP)");
            }
        }
        let mut added = 0;
        for (key, peer) in configured {
            let found = self.peers.get(&key);
            // As it is already, or an earlier one could not be given up, which must not change under
            // its session.
            if found.is_some_and(|found| *found == peer || !same(found, &peer)) {
                continue;
            }
            let known = found.is_some();
            if let Err(error) = self.want(key, peer) {
                let address = Ipv4Addr::from(key.peer);
                warn!(peer = %address, error = format!("{error:#}"), "peer not configured; read the file again (SIGHUP)");
                continue;
            }
            added += usize::from(!known);
        }
        let changed = changed - removed;
        info!(file = %path.display(), peers = wanted, added = added - changed.min(added), changed, removed, "peers configured");
        self.check_soon();
    }

    /// Writes a peer; its session is opened by the next check, once the address is there and an
    /// earlier session with the peer is closed.
    fn want(&mut self, key: PeerKey, peer: Peer) -> anyhow::Result<()> {
        let room = self.peers.len() < self.capacity() as usize;
        anyhow::ensure!(
            room || self.peers.contains_key(&key),
            "no room for another peer: raise --max-sessions"
        );
        self.datapath
            .maps
            .set_peer(&key, &peer)
            .context("dz_peers")?;
        self.peers.insert(key, peer);
        Ok(())
    }
}
