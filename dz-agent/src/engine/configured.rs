//! Reads the file of peers (`--peers`), at start, on SIGHUP and on request. Its `exclude` and `override` lines apply to
//! every peer, also to those of requests and followed routes.

use std::thread;

use dz_common::map::{Origin, Peer};
use futures_util::FutureExt;
use tokio::sync::oneshot;

use crate::engine::hands::Answer;
use crate::engine::state::keys::peer_key;
use crate::engine::state::reloads::FileRead;
use crate::engine::state::wants::Configured;
use crate::error::{ExitCode, FailWith, Failure};
use crate::settings::PeersFile;
use crate::settings::RunOptions;

/// Reads the file on a thread of its own, while the loop goes on: it may be on a mount that hangs.
pub(crate) fn read_aside(options: RunOptions) -> Answer<FileRead> {
    let (done, read_there) = oneshot::channel();
    let reading = thread::Builder::new().name("dz-peers".to_owned());
    // Fails if the agent is stopping, who does not need it then.
    let reading = reading.spawn(move || drop(done.send(read(&options))));
    let answer = async move {
        reading.fail_with(
            ExitCode::Failure,
            || "a thread that reads the file of peers",
        )?;
        let read = read_there.await;
        read.fail_with(ExitCode::Failure, || "reading the file of peers")?
    };
    answer.boxed_local()
}

/// Reads the file's peers, and the policy: that of the options with the file's `exclude` and `override`
/// lines added; for one prefix the file's override counts. Without a file there are no configured peers.
///
/// # Errors
/// [`ExitCode::Usage`] with everything that is wrong with the file.
pub(crate) fn read(options: &RunOptions) -> FileRead {
    let mut policy = options.policy();
    let mut configured = Configured::default();
    let Some(path) = &options.peers else {
        return Ok((configured, policy));
    };
    let mut faults = Vec::new();
    let file = PeersFile::read(path)?;
    file.excluded
        .iter()
        .for_each(|prefix| policy.exclude(*prefix));
    for rule in file.overrides {
        policy.set(rule);
    }
    for (line, mut spec) in file.peers {
        if let Some(prefix) = policy.excluded(spec.peer) {
            faults.push(format!(
                "line {line}: peer {}: excluded by {prefix}",
                spec.peer
            ));
            continue;
        }
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
            // Made anew from its line at each start.
            left_out: 0,
            ..spec.peer(&policy.timers(spec.peer, options.timers()))
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
        return Ok((configured, policy));
    }
    let text = format!("{}: {}", path.display(), faults.join("; "));
    Err(Failure::new(ExitCode::Usage, text))
}
