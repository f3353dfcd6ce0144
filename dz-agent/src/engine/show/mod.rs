//! Serves the API and the metrics, on a thread of its own. It only reads, and passes requests on to the
//! engine.

pub(super) mod front;
pub(super) mod held;
pub(super) mod inspect;
mod parked;
mod reverse_path;
mod scrapes;
pub(super) mod shared;
