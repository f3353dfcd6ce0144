//! Requests to disconnect whose sessions are not all closed yet.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::command::{Disconnected, Refusal, RefusalKind};

/// The answer to a request to disconnect.
pub(crate) type Answer = Result<Vec<Disconnected>, Refusal>;
/// The channel on which the answer is sent.
pub(crate) type Reply = oneshot::Sender<Answer>;

/// A request to disconnect that is not answered yet.
#[derive(Debug)]
struct Batch {
    /// How many peers are not done with yet.
    waiting: usize,
    done: Vec<Disconnected>,
    faults: Vec<String>,
    reply: Reply,
}

/// The requests that are not answered yet, by number.
#[derive(Debug, Default)]
pub(crate) struct Batches(BTreeMap<u64, Batch>);

impl Batches {
    /// Adds a request about `waiting` peers. Returns its number.
    pub(crate) fn begin(&mut self, waiting: usize, reply: Reply) -> u64 {
        let id = self.0.keys().next_back().map_or(0, |last| last + 1);
        let batch = Batch {
            waiting,
            done: Vec::new(),
            faults: Vec::new(),
            reply,
        };
        self.0.insert(id, batch);
        id
    }

    /// Notes how the disconnect of one peer of a request has ended.
    pub(crate) fn finish_one(&mut self, id: u64, result: Result<Disconnected, String>) {
        let Some(batch) = self.0.get_mut(&id) else {
            return;
        };
        batch.waiting = batch.waiting.saturating_sub(1);
        match result {
            Ok(done) => batch.done.push(done),
            Err(fault) => batch.faults.push(fault),
        }
    }

    /// Takes a request off if all of its peers are done with. Returns the channel and the answer.
    pub(crate) fn take_done(&mut self, id: u64) -> Option<(Reply, Answer)> {
        if self.0.get(&id)?.waiting > 0 {
            return None;
        }
        let batch = self.0.remove(&id)?;
        let answer = if batch.faults.is_empty() {
            Ok(batch.done)
        } else {
            Err(Refusal {
                kind: RefusalKind::Internal,
                faults: batch.faults,
            })
        };
        Some((batch.reply, answer))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn gone(last: u8) -> Disconnected {
        Disconnected {
            interface: "doublezero0".into(),
            local: Ipv4Addr::new(10, 0, 0, 1),
            peer: Ipv4Addr::new(10, 0, 1, last),
            warnings: Vec::new(),
        }
    }

    fn begun(batches: &mut Batches, waiting: usize) -> u64 {
        let (reply, _) = oneshot::channel();
        batches.begin(waiting, reply)
    }

    #[test]
    fn the_answer_waits_for_the_last_peer() {
        let mut batches = Batches::default();
        let (one, other) = (begun(&mut batches, 2), begun(&mut batches, 1));
        batches.finish_one(one, Ok(gone(1)));
        assert!(batches.take_done(one).is_none());
        batches.finish_one(other, Ok(gone(9)));
        batches.finish_one(one, Ok(gone(2)));
        let (_, answer) = batches.take_done(one).expect("all are done with");
        let gone: Vec<_> = answer.unwrap().iter().map(|gone| gone.peer).collect();
        assert_eq!(
            gone,
            [Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(10, 0, 1, 2)]
        );
        assert!(batches.take_done(one).is_none(), "answered once");
        assert!(batches.take_done(other).is_some());
    }

    #[test]
    fn one_fault_is_the_answer() {
        let mut batches = Batches::default();
        let id = begun(&mut batches, 2);
        batches.finish_one(id, Ok(gone(1)));
        batches.finish_one(id, Err("stuck".into()));
        let (_, answer) = batches.take_done(id).expect("all are done with");
        assert_eq!(answer.unwrap_err().faults, ["stuck"]);
    }

    #[test]
    fn nobody_to_wait_for_is_done_at_once() {
        let mut batches = Batches::default();
        let id = begun(&mut batches, 0);
        assert!(batches.take_done(id).is_some());
    }
}
