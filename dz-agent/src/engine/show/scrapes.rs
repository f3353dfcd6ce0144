//! The socket of the metrics: listened on if it can be, and tried again while it cannot.
//!
//! Whatever stands in the way (the port is taken, the address is not there yet) stops nothing else.

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::api::MetricsListener;
use crate::host::port::Sockets;
use crate::settings::MetricsListen;
use crate::view::MetricsView;

/// The pause after the first try in vain; it doubles up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The socket, on its way.
pub(crate) struct Scrapes {
    wanted: MetricsListen,
    /// What came of the first try.
    tried: Option<io::Result<MetricsListener>>,
    /// Others' sockets with the port, as of the last try that found it taken.
    sockets: Sockets,
    /// Why there is no socket, for people; empty until that is known.
    reason: String,
    view: watch::Sender<MetricsView>,
}

impl Scrapes {
    /// Makes one that has not tried anything. The second half says what has become of it, at any time.
    pub(crate) fn new(wanted: MetricsListen) -> (Self, watch::Receiver<MetricsView>) {
        let (view, shown) = watch::channel(MetricsView::Off);
        let scrapes = Self {
            wanted,
            tried: None,
            sockets: Sockets::default(),
            reason: String::new(),
            view,
        };
        (scrapes, shown)
    }

    /// Tries for the first time, and says nothing of it: the agent may not start after all.
    pub(crate) fn bind(&mut self) {
        self.tried = Some(MetricsListener::bind(&self.wanted));
    }

    /// Waits until there is a socket; for ever if none is wanted. Says once what stands in the way.
    pub(crate) async fn listener(mut self) -> MetricsListener {
        if self.wanted == MetricsListen::Off {
            return std::future::pending().await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let tried = self.tried.take();
            let tried = tried.unwrap_or_else(|| MetricsListener::bind(&self.wanted));
            match tried.and_then(|listener| Ok((listener.place()?, listener))) {
                Ok((address, listener)) => {
                    info!(%address, "metrics");
                    self.view.send_replace(MetricsView::At(address));
                    return listener;
                }
                Err(error) => self.explain(&error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Notes why there is no socket, and says so if that is new.
    fn explain(&mut self, error: &io::Error) {
        let cause = match error.kind() {
            io::ErrorKind::AddrInUse => {
                let sockets = Sockets::tcp(self.wanted.port());
                // Their processes are looked for only where that may find somebody else.
                if !self.reason.is_empty() && sockets == self.sockets {
                    return;
                }
                let holders = sockets.holders();
                self.sockets = sockets;
                format!(
                    "the port is taken by {holders}: stop that, or give another --metrics-listen"
                )
            }
            io::ErrorKind::AddrNotAvailable => "no address of this host at present".to_owned(),
            _ => format!("{error}: give another --metrics-listen, or off"),
        };
        let reason = format!("{}: {cause}", self.wanted);
        if reason != self.reason {
            warn!(reason, "metrics not served; trying again");
            self.view.send_replace(MetricsView::Missing(reason.clone()));
            self.reason = reason;
        }
    }
}
