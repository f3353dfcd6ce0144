//! The metrics of the deployed client, and ours, from one snapshot at scrape time.

mod convergence;
mod rx_versions;

pub use convergence::ConvergenceHistograms;
pub use rx_versions::RxVersions;

use std::net::Ipv4Addr;

use prometheus_client::encoding::EncodeLabelSet;

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
