//! Answers a scrape: takes a snapshot, and writes it in the format that was asked for.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;

use super::families::Families;
use super::recent::Recent;
use super::recorded::Recorded;
use super::text::{self, Format};
use crate::view::Inspect;

/// Writes the metrics on request.
#[derive(Debug)]
pub struct Exporter<I> {
    inspect: Arc<I>,
    recorded: Recorded,
    per_peer: bool,
    // One at a time: `RxVersions::look` wants its snapshots in order, and a crowd of scrapers must
    // not multiply the reading of the maps.
    recent: Mutex<Recent>,
}

impl<I: Inspect> Exporter<I> {
    /// Makes an exporter of the snapshots of `inspect`. `per_peer`: with series for each peer.
    pub fn new(inspect: Arc<I>, recorded: Recorded, per_peer: bool) -> Self {
        Self {
            inspect,
            recorded,
            per_peer,
            recent: Mutex::new(Recent::default()),
        }
    }

    /// Writes the present metrics.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub async fn scrape(&self, format: Format) -> anyhow::Result<Bytes> {
        let _one_at_a_time = self.recent.lock().await;
        Ok(self.write(format).await?.into())
    }

    /// Returns metrics that are at most a second old, or as old as slow readers make them ([`Recent`]): whoever asks, and however
    /// often, they are written once.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub async fn recent(&self, format: Format) -> anyhow::Result<Bytes> {
        let mut recent = self.recent.lock().await;
        if let Some(text) = recent.get(format, Instant::now()) {
            return Ok(text);
        }
        let asked_at = Instant::now();
        let text = self.write(format).await?;
        Ok(recent.set(format, asked_at, text))
    }

    async fn write(&self, format: Format) -> anyhow::Result<String> {
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
