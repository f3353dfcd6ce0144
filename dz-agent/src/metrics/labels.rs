//! The labels that most series carry.

use std::net::Ipv4Addr;

use prometheus_client::encoding::EncodeLabelSet;

/// The labels of the deployed client: interface and local address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub(super) struct ServiceLabels {
    pub(super) iface: String,
    pub(super) local_ip: String,
}

impl ServiceLabels {
    pub(super) fn new(iface: &str, local: Ipv4Addr) -> Self {
        Self {
            iface: iface.to_owned(),
            local_ip: local.to_string(),
        }
    }
}
