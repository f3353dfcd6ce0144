//! Network-namespace harness and end-to-end tests.
//!
//! The harness gives a test network namespaces of its own ([`netns`]), in which it runs closures
//! and children, and a way to say that it could not run ([`harness`]).

pub mod bpffs;
pub mod harness;
pub mod netns;
pub mod udp_peer;
pub mod wait;
