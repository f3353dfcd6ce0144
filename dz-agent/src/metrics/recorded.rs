//! Values that the engine records for the metrics.

use std::sync::Arc;

use super::convergence::ConvergenceHistograms;
use super::rx_versions::RxVersions;

/// The values of the metrics that are in no snapshot, kept for the life of the process. Clones share
/// them.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// How long convergence took.
    pub convergence: ConvergenceHistograms,
    /// Packets by the peers' versions; the engine reports each removed session.
    pub rx_versions: Arc<RxVersions>,
}
