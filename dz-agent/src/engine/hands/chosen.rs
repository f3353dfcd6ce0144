//! What follows from the options: the settings of the kernel part, and which interfaces can be served.

use crate::datapath::{Settings, choose};
use crate::error::{ExitCode, FailWith, Failure};
use crate::net::{Netlink, links};
use crate::settings::{PeerPassive, RunOptions, UnknownPeers};

/// Checks that the interfaces that exist can be served, before an earlier agent's maps are taken over.
///
/// # Errors
/// [`ExitCode::Interface`]: one cannot.
pub(crate) async fn check_interfaces(options: &RunOptions) -> Result<(), Failure> {
    let netlink = Netlink::open().fail_with(ExitCode::Failure, || "netlink")?;
    for name in &options.interfaces {
        let context = || format!("interface {name}");
        let found = links::by_name(&netlink, name).await;
        if let Some(found) = found.fail_with(ExitCode::Failure, context)? {
            let link = found.link.clone();
            let link = link.map_err(|why| Failure::new(ExitCode::Interface, why));
            let choice = link.and_then(|link| choose(options.attach, &found, link));
            choice.map_err(|failure| failure.context(context()))?;
        }
    }
    Ok(())
}

/// Returns the settings of the kernel part that follow from the options.
pub(crate) fn settings(options: &RunOptions) -> Settings {
    Settings {
        pin_dir: options.pin_dir.clone(),
        state_dir: options.state_dir.clone(),
        port: options.port,
        unknown_pass: options.unknown == UnknownPeers::Pass,
        max_sessions: options.max_sessions,
        grace_ns: u64::try_from(options.restart_grace.as_nanos()).unwrap_or(u64::MAX),
        when_down: options.when_down.into(),
        when_never_up: options.when_never_up.into(),
        ttl: options.ttl,
        tos: options.tos.0,
        ignore_peer_passive: options.peer_passive == PeerPassive::Ignore,
        route_protocols: [options.route_protocol, 0, 0, 0],
    }
}
