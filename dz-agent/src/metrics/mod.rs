//! The metrics of the deployed client, and ours, from one snapshot at scrape time: nothing is
//! copied on a timer.

mod convergence;
mod families;
mod peers;
mod rx_versions;
#[cfg(test)]
mod tests;
mod text;
mod transitions;

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;

pub use convergence::ConvergenceHistograms;
pub use rx_versions::RxVersions;
pub use text::Format;

use crate::view::Inspect;
use families::Families;

/// The labels of the deployed client: interface and local address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct ServiceLabels {
    iface: String,
    local_ip: String,
}

impl ServiceLabels {
    fn new(iface: &str, local: Ipv4Addr) -> Self {
        Self {
            iface: iface.to_owned(),
            local_ip: local.to_string(),
        }
    }
}

/// What the metrics need beside a snapshot, kept by the engine for the life of the process.
/// Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Observed by the engine.
    pub convergence: ConvergenceHistograms,
    /// Told by the engine of each removed session.
    pub rx_versions: Arc<RxVersions>,
}

/// Writes the metrics when asked.
#[derive(Debug)]
pub struct Exporter<I> {
    inspect: Arc<I>,
    recorded: Recorded,
    per_peer: bool,
    // One at a time: `RxVersions::look` wants its snapshots in order, and a crowd of scrapers must
    // not multiply the reading of the maps.
    scrape: Mutex<()>,
}

impl<I: Inspect> Exporter<I> {
    /// An exporter of what `inspect` reads. `per_peer`: with series for each peer.
    pub fn new(inspect: Arc<I>, recorded: Recorded, per_peer: bool) -> Self {
        Self {
            inspect,
            recorded,
            per_peer,
            scrape: Mutex::new(()),
        }
    }

    /// The metrics as of now.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub async fn scrape(&self, format: Format) -> anyhow::Result<String> {
        let _one_at_a_time = self.scrape.lock().await;
        let removals_before = self.recorded.rx_versions.removals();
        let snapshot = self.inspect.snapshot().await?;
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Families::new(
            snapshot,
            self.recorded.clone(),
            removals_before,
            self.per_peer,
        )));
        let mut open_metrics = String::new();
        prometheus_client::encoding::text::encode(&mut open_metrics, &registry)
            .context("writing the metrics")?;
        match format {
            Format::OpenMetrics => Ok(open_metrics),
            Format::Prometheus => {
                text::to_prometheus(&open_metrics).context("translating the metrics")
            }
        }
    }
}
