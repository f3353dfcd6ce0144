//! The engine's questions to the kernel in memory: those that a test answers when it wants to, and pauses at those that
//! are answered immediately.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Poll;

use futures_util::FutureExt;
use nix::errno::Errno;
use tokio::sync::oneshot;

use super::Answer;
use crate::net::NetlinkError;
use crate::net::routes::RouteError;

/// A request's change in the kernel in memory, and its answer.
type CarryOut = Box<dyn FnOnce()>;

/// The engine's requests whose [`Answer`]s it waits for while it goes on, first come first served.
#[derive(Clone, Default)]
pub(crate) struct Requests(Rc<RefCell<VecDeque<CarryOut>>>);

impl Requests {
    /// Carries the first request out and answers it. Returns whether there was one.
    pub(crate) fn carry_out(&self) -> bool {
        let next = self.0.borrow_mut().pop_front();
        next.map(|carry_out| carry_out()).is_some()
    }

    pub(super) fn ask<T: 'static>(&self, carry_out: impl FnOnce() -> T + 'static) -> Answer<T> {
        let queue = Rc::clone(&self.0);
        async move {
            let (done, answer) = oneshot::channel();
            // Sending fails if nobody waits for the answer any more.
            let carry_out = move || drop(done.send(carry_out()));
            queue.borrow_mut().push_back(Box::new(carry_out));
            match answer.await {
                Ok(answer) => answer,
                Err(_) => std::future::pending().await,
            }
        }
        .boxed_local()
    }
}

/// Pauses of the engine at a question that it awaits: other things happen meanwhile, as on a busy machine.
#[derive(Clone, Default)]
pub(crate) struct Pauses(Rc<Cell<u32>>);

impl Pauses {
    #[cfg(feature = "sim")]
    /// Has the engine stand still once, at the `questions`th question from now on; 0: not at all.
    pub(crate) fn after(&self, questions: u32) {
        self.0.set(questions);
    }

    pub(super) async fn question(&self) {
        match self.0.get() {
            0 => {}
            1 => {
                self.0.set(0);
                let mut asked = false;
                std::future::poll_fn(|context| {
                    if std::mem::replace(&mut asked, true) {
                        return Poll::Ready(());
                    }
                    context.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
            }
            more => self.0.set(more - 1),
        }
    }
}

/// Makes netlink's error of the kernel's.
pub(super) fn refused(errno: Errno) -> NetlinkError {
    NetlinkError::Refused { errno, said: None }
}

/// Makes a route's error of the kernel's.
pub(super) fn failed(what: String, errno: Errno) -> RouteError {
    let cause = refused(errno);
    RouteError::Netlink { what, cause }
}
