//! The metrics of the deployed client, and ours, from one snapshot at scrape time: nothing is
//! copied on a timer.

mod convergence;
mod exporter;
mod families;
mod labels;
mod peers;
mod programs;
mod recent;
mod recorded;
mod rx_versions;
#[cfg(test)]
mod tests;
mod text;
mod transitions;
mod write;

pub use convergence::ConvergenceHistograms;
pub use exporter::Exporter;
pub use recorded::Recorded;
pub use rx_versions::RxVersions;
pub use text::Format;
