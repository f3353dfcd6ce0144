//! The guard of one interface's liveness port: it takes the port, and tries again while another process has
//! it.
//!
//! The port is a courtesy. The kernel programs answer at the hook, before any socket, so that an interface
//! is served all the same while another process has the port.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::host::port::{PortError, PortGuard, Sockets};
use crate::view::PortGuardView;

/// The shortest time between two tries. Interfaces are read every ten seconds, and more often while links
/// change; to find out who has a port, the kernel's table of sockets is read.
const PAUSE: Duration = Duration::from_secs(5);

/// The advice where the deployed client's daemon has the port.
const TURN_OFF: &str = "its own liveness speaks to our peers, too: run it with \
    -route-liveness-enable-passive=false -route-liveness-enable-active=false";

/// The guard of the port of one interface that exists.
#[derive(Debug)]
pub(super) enum Guard {
    /// The port is not to be taken.
    Off,
    /// The port is ours, until this value is dropped.
    Held { _port: PortGuard },
    /// The port is to be taken, and another process has it.
    Missing(Missing),
}

/// Why the port is not ours.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// The time of the last try.
    tried: Option<Instant>,
    /// The sockets with the port when their processes were last looked up.
    sockets: Sockets,
    /// The reason, for people.
    reason: String,
}

impl Guard {
    /// Takes the port if it is wanted and free. It does not log why not: [`Self::keep`] does.
    pub(super) fn new(wanted: bool, interface: &str, port: u16) -> Self {
        if !wanted {
            return Self::Off;
        }
        match PortGuard::bind(interface, port) {
            Ok(guard) => Self::Held { _port: guard },
            Err(_) => Self::Missing(Missing::default()),
        }
    }

    /// Takes the port if it is wanted, not ours yet, and free. Logs once who has it, and when it is ours
    /// after all.
    pub(super) fn keep(&mut self, interface: &str, port: u16) {
        let Self::Missing(missing) = self else { return };
        if missing.tried.is_some_and(|tried| tried.elapsed() < PAUSE) {
            return;
        }
        missing.tried = Some(Instant::now());
        match PortGuard::bind(interface, port) {
            Ok(guard) => {
                if !missing.reason.is_empty() {
                    info!(interface, port, "UDP port is ours now");
                }
                *self = Self::Held { _port: guard };
            }
            Err(error) => missing.explain(interface, port, &error),
        }
    }

    pub(super) fn view(&self) -> PortGuardView {
        match self {
            Self::Off => PortGuardView::Off,
            Self::Held { .. } => PortGuardView::Held,
            Self::Missing(missing) => PortGuardView::Missing(missing.reason.clone()),
        }
    }
}

impl Missing {
    /// Notes why the port is not ours, and logs it if the reason has changed.
    fn explain(&mut self, interface: &str, port: u16, error: &PortError) {
        let reason = if error.is_taken() {
            let sockets = Sockets::udp(port);
            // To find their processes is expensive: not while the sockets are the same.
            if !self.reason.is_empty() && sockets == self.sockets {
                return;
            }
            let holders = sockets.holders();
            self.sockets = sockets;
            let advice = if holders.has_deployed_client() {
                TURN_OFF
            } else {
                "stop that, or give --port-guard off"
            };
            format!("{error} by {holders}: {advice}")
        } else {
            error.to_string()
        };
        if self.reason != reason {
            warn!(
                interface,
                reason, "served without the port guard; trying again"
            );
            self.reason = reason;
        }
    }
}
