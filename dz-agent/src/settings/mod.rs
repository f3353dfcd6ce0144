//! The options of `run` and the file of peers, and how both are read. No file here knows a subcommand;
//! [`RunOptions`] are the options of one.

pub mod address;
mod follow;
pub(crate) mod lines;
mod options;
mod peer;
mod peers_file;
pub mod policy;
pub mod values;

pub use follow::{Conditions, Follow, Follows, MAIN_TABLE, protocol_name};
pub use options::{
    Attach, DEFAULT_PIN_DIR, Gate, LogFormat, PeerPassive, Realtime, RunOptions, Switch,
    UnknownPeers,
};
pub use peer::{PeerBatch, PeerRequest, PeerSpec};
pub use peers_file::PeersFile;
pub use policy::{Override, Overrides, Policy, Timing};
pub use values::MetricsListen;
