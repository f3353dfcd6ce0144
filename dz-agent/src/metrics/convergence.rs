//! Histograms of how long convergence took, route change included. The kernel has no place for them: they
//! start anew with the process.

use std::net::Ipv4Addr;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::labels::ServiceLabels;

/// The deployed client's bounds, in seconds, and two below them: ours is faster.
const BOUNDS: [f64; 13] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

pub(super) type Convergence = Family<ServiceLabels, Histogram, fn() -> Histogram>;

/// The histograms, shared by the engine, which observes, and the metrics. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct ConvergenceHistograms {
    pub(super) up: Convergence,
    pub(super) down: Convergence,
}

impl ConvergenceHistograms {
    /// Makes histograms without an observation.
    pub fn new() -> Self {
        let family = || Convergence::new_with_constructor(|| Histogram::new(BOUNDS));
        Self {
            up: family(),
            down: family(),
        }
    }

    /// Observes that a session is Up and its route installed. `took`: since the first packet accepted.
    pub fn observe_up(&self, interface: &str, local: Ipv4Addr, took: Duration) {
        observe(&self.up, interface, local, took);
    }

    /// Observes that a session is Down and its route withdrawn. `took`: since the first packet was missing,
    /// or since the packet that took it down.
    pub fn observe_down(&self, interface: &str, local: Ipv4Addr, took: Duration) {
        observe(&self.down, interface, local, took);
    }
}

impl Default for ConvergenceHistograms {
    fn default() -> Self {
        Self::new()
    }
}

fn observe(family: &Convergence, interface: &str, local: Ipv4Addr, took: Duration) {
    family
        .get_or_create(&ServiceLabels::new(interface, local))
        .observe(took.as_secs_f64());
}
