//! The reading of the file of peers that is under way, and who asked for it.

use dz_common::map::{Peer, PeerKey};
use tokio::sync::oneshot;

use crate::command::{Refusal, Reloaded};
use crate::engine::hands::Answer;
use crate::error::Failure;
use crate::hash::HashMap;
use crate::settings::Policy;

/// The peers of the file.
pub(crate) type Configured = HashMap<PeerKey, Peer>;

/// The peers and the policy of the file, or why it cannot be read.
pub(crate) type FileRead = Result<(Configured, Policy), Failure>;

/// Who asked for the file to be read again.
#[derive(Debug)]
pub(crate) enum AskedBy {
    /// SIGHUP.
    Signal,
    /// A request.
    Request {
        /// Whether peers may be given up however many they are.
        force: bool,
        reply: oneshot::Sender<Result<Reloaded, Refusal>>,
    },
}

/// The reading of the file that is under way. There is one at a time, however long it takes.
#[derive(Default)]
pub(crate) struct Reloads {
    under_way: Option<(Answer<FileRead>, AskedBy)>,
    /// SIGHUP came meanwhile: the file may have changed since it was read.
    again: bool,
}

impl Reloads {
    /// Says whether the file is being read.
    pub(crate) const fn is_reading(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins to read the file; a reading that is under way is dropped.
    pub(crate) fn begin(&mut self, reading: Answer<FileRead>, asked_by: AskedBy) {
        self.under_way = Some((reading, asked_by));
    }

    /// Notes that the file is to be read once more when this reading is over.
    pub(crate) const fn again(&mut self) {
        self.again = true;
    }

    /// Takes the note that the file is to be read once more.
    pub(crate) const fn take_again(&mut self) -> bool {
        std::mem::replace(&mut self.again, false)
    }

    /// Waits for the file; for ever if it is not being read. Cancel safe.
    pub(crate) async fn read(&mut self) -> FileRead {
        match &mut self.under_way {
            Some((reading, _)) => reading.await,
            None => std::future::pending().await,
        }
    }

    /// Ends the reading, and returns who asked for it.
    pub(crate) fn end(&mut self) -> Option<AskedBy> {
        self.under_way.take().map(|(_, asked_by)| asked_by)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::error::ExitCode;

    #[test]
    fn one_reading_at_a_time_and_one_more_after_it() {
        let mut reloads = Reloads::default();
        assert!(!reloads.is_reading() && reloads.read().now_or_never().is_none());
        let gone = || Err(Failure::new(ExitCode::Usage, "gone"));
        reloads.begin(async move { gone() }.boxed_local(), AskedBy::Signal);
        reloads.again();
        assert!(reloads.is_reading());
        let read = reloads.read().now_or_never().unwrap();
        assert_eq!(read.unwrap_err().to_string(), "gone");
        assert!(matches!(reloads.end(), Some(AskedBy::Signal)));
        assert!(!reloads.is_reading());
        assert!(reloads.take_again() && !reloads.take_again());
    }
}
