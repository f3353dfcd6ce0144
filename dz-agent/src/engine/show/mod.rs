//! Showing: what the API and the metrics see, on a thread of their own. Nothing here changes anything.

pub(super) mod front;
pub(super) mod inspect;
mod reverse_path;
mod scrapes;
pub(super) mod shared;
