//! The agent as a process of this machine: locks, a port, a secret, memory, threads and a log. No file
//! here knows peers, sessions or routes.

pub mod descriptors;
pub mod heap;
pub mod holder;
pub mod identity;
pub mod lock;
pub(crate) mod lock_file;
mod log_queue;
pub mod logging;
pub mod port;
pub mod realtime;
