//! The socket of the metrics. If it cannot be bound (the port is taken, the address is not there yet),
//! that is tried again, and nothing else waits for it.

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::api::MetricsListener;
use crate::host::port::Sockets;
use crate::settings::MetricsListen;
use crate::view::MetricsView;

/// The pause after the first failed try; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The socket until it is bound.
pub(crate) struct Scrapes {
    wanted: MetricsListen,
    /// The result of the first try, until it is dealt with.
    tried: Option<io::Result<MetricsListener>>,
    /// The sockets with the port when their processes were last looked up.
    sockets: Sockets,
    /// Why the socket is not bound, for people; empty before the first try.
    reason: String,
    view: watch::Sender<MetricsView>,
}

impl Scrapes {
    /// Makes a socket that has not been tried. The receiver has its present state, at any time.
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

    /// Tries to bind the socket for the first time. The result is logged by [`Self::listener`] only, for the
    /// agent may still fail to start.
    pub(crate) fn bind(&mut self) {
        self.tried = Some(MetricsListener::bind(&self.wanted));
    }

    /// Waits until the socket is bound; for ever if none is wanted. Logs each reason why it is not, once.
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

    /// Notes why the socket is not bound, and logs it if the reason has changed.
    fn explain(&mut self, error: &io::Error) {
        let cause = match error.kind() {
            io::ErrorKind::AddrInUse => {
                let sockets = Sockets::tcp(self.wanted.port());
                // To find their processes is expensive: not while the sockets are the same.
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
