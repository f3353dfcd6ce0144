//! The ways in which a netlink request fails.

use std::time::Duration;

use nix::errno::Errno;

/// How long one request may take. The kernel answers within its system call, a dump of a million routes in about
/// a second; what takes longer is lost.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused it.
    #[error("{}", refusal(*errno, said.as_deref()))]
    Refused {
        /// The error number of its answer.
        errno: Errno,
        /// Its explanation in words (extended acknowledgement), if it gave one.
        said: Option<String>,
    },
    /// The kernel's table kept changing while it was being read.
    #[error("the kernel's table kept changing while it was read; try again")]
    Interrupted,
    /// No answer. The request may have been carried out all the same.
    #[error("no answer from the kernel within {} s; read the state again", TIMEOUT.as_secs())]
    Timeout,
    /// The connection broke before the answer. The request may have been carried out all the same.
    #[error("the connection to the kernel broke and is opened again; try again")]
    Closed,
    /// An answer that does not belong to the question.
    #[error("unexpected answer from the kernel: {0}")]
    Unexpected(String),
}

impl NetlinkError {
    /// Returns the error number of the kernel's answer, if it refused.
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

fn refusal(errno: Errno, said: Option<&str>) -> String {
    match said {
        Some(said) => format!("{errno} (kernel: {})", said.trim_end_matches('.')),
        None => errno.to_string(),
    }
}
