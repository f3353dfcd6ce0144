//! What the engine tells the metrics.

use std::sync::Arc;

use super::convergence::ConvergenceHistograms;
use super::rx_versions::RxVersions;

/// What the metrics need beside a snapshot, kept by the engine for the life of the process.
/// Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Observed by the engine.
    pub convergence: ConvergenceHistograms,
    /// Told by the engine of each removed session.
    pub rx_versions: Arc<RxVersions>,
}
