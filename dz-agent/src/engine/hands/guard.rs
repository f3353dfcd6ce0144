//! The liveness port of one interface: taken if it can be had, and tried again while it cannot.
//!
//! The port is a courtesy. The kernel programs answer at the hook, before any socket, so an interface
//! is served all the same while somebody else has it.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::host::port::{PortError, PortGuard, Sockets};
use crate::view::PortGuardView;

/// The shortest time between two tries. Interfaces are looked at every ten seconds, and more often
/// while links change; to look up who has a port means to read through a table.
const PAUSE: Duration = Duration::from_secs(5);

/// What to do where the deployed client's daemon has the port.
const TURN_OFF: &str = "its own liveness speaks to our peers, too: run it with \
    -route-liveness-enable-passive=false -route-liveness-enable-active=false";

/// The port of one interface, for as long as there is this interface.
#[derive(Debug)]
pub(super) enum Guard {
    /// It is left to others.
    Off,
    /// It is ours, for as long as the value lives.
    Held { _port: PortGuard },
    /// It is wanted and not ours.
    Missing(Missing),
}

/// Why the port is not ours.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// When it was tried last.
    tried: Option<Instant>,
    /// Others' sockets with the port, as of then.
    sockets: Sockets,
    /// For people.
    reason: String,
}

impl Guard {
    /// Takes the port if it is wanted and free; says nothing if not, for [`Self::keep`] does.
    pub(super) fn new(wanted: bool, interface: &str, port: u16) -> Self {
        if !wanted {
            return Self::Off;
        }
        match PortGuard::bind(interface, port) {
            Ok(guard) => Self::Held { _port: guard },
            Err(_) => Self::Missing(Missing::default()),
        }
    }

    /// Takes the port if it is wanted, not ours yet, and free. Says once who has it, and when it is
    /// ours after all.
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
    /// Notes why the port is not ours, and says so if that is new.
    fn explain(&mut self, interface: &str, port: u16, error: &PortError) {
        let reason = if error.is_taken() {
            let sockets = Sockets::udp(port);
            // Their processes are looked for only where that may find somebody else.
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
