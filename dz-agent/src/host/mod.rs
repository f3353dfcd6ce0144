//! What the agent is to this machine: a process with locks, a port, a secret, memory, threads and a log.
//! It knows nothing of peers, sessions and routes.

pub mod heap;
pub mod holder;
pub mod identity;
pub mod lock;
pub mod logging;
pub mod port;
pub mod realtime;
