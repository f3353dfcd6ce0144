//! The connection to the kernel, by which requests are sent and answered.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use futures_util::{Stream, StreamExt};
use nix::errno::Errno;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::connection::Connection;
use super::error::{NetlinkError, TIMEOUT};

/// A dump that the table changed under is read again this often at once before it is an error.
const DUMP_TRIES: u32 = 4;
/// Length of `struct nlmsghdr`, which an error message repeats before its attributes.
const NLMSG_HEADER_LEN: usize = 16;
/// Attribute of an error message: the kernel's explanation in words (`NLMSGERR_ATTR_MSG`).
const NLMSGERR_ATTR_MSG: u16 = 1;

type Answer = NetlinkMessage<RouteNetlinkMessage>;

/// A connection to the kernel's routing netlink, in the network namespace of the thread that opened
/// it. Clones share it; any number of requests may be in flight, and they are carried out in the
/// order in which they were first polled. When it breaks, those in flight fail, and it is opened again.
#[derive(Clone, Debug)]
pub struct Netlink {
    connection: Arc<Connection>,
}

impl Netlink {
    /// Opens a connection and starts the task that serves it, which ends with the last clone.
    ///
    /// To be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open() -> io::Result<Self> {
        let (connection, task) = Connection::open()?;
        tokio::spawn(task);
        Ok(Self { connection })
    }

    /// Opens a connection that a thread of its own serves, which calls `begin` first: the kernel changes a
    /// table within the system call that asks for it, and a caller with thousands of changes has other
    /// work meanwhile.
    ///
    /// To be called inside a tokio runtime with time.
    ///
    /// # Errors
    /// The socket cannot be opened, or the thread not started.
    pub fn open_beside(begin: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        // In the thread from the beginning: a runtime that failed half-way could not be dropped inside the caller's.
        let open = || -> io::Result<_> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (connection, task) = runtime.block_on(async { Connection::open() })?;
            Ok((runtime, connection, task))
        };
        let (opened, outcome) = mpsc::channel();
        thread::Builder::new()
            .name("netlink".to_owned())
            .spawn(move || match open() {
                Ok((runtime, connection, task)) => {
                    // The receiver waits for exactly one message.
                    drop(opened.send(Ok(connection)));
                    begin();
                    runtime.block_on(task);
                }
                Err(error) => drop(opened.send(Err(error))),
            })?;
        let connection = outcome.recv().map_err(io::Error::other)??;
        Ok(Self { connection })
    }

    /// Returns the port of its socket, by which notifications name the author of a change.
    pub fn port(&self) -> u32 {
        self.connection.port()
    }

    /// Waits until the connection is lost: it broke, and could not be opened again.
    pub async fn lost(&self) {
        self.connection.lost().await;
    }

    #[cfg(test)]
    pub(super) fn give_up(&self, generation: u64) {
        self.connection.give_up(generation);
    }

    #[cfg(test)]
    pub(super) fn generation(&self) -> u64 {
        self.connection.handle().1
    }

    /// Asks for a change, and waits for the acknowledgement.
    pub(crate) async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        #[cfg(feature = "faults")]
        crate::faults::before(&message)
            .await
            .map_err(|errno| NetlinkError::Refused {
                errno,
                said: Some("refused by a test".to_owned()),
            })?;
        let (mut answers, generation) = self.send(message, flags | NLM_F_ACK)?;
        self.within_timeout(generation, async {
            let answer = answers.next().await.ok_or(NetlinkError::Closed)?;
            match answer.payload {
                NetlinkPayload::Error(error) => outcome(&error),
                other => Err(unexpected(&other)),
            }
        })
        .await
    }

    /// Asks for one object.
    pub(crate) async fn get(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        let (mut answers, generation) = self.send(message, 0)?;
        self.within_timeout(generation, async {
            let answer = answers.next().await.ok_or(NetlinkError::Closed)?;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => Ok(message),
                NetlinkPayload::Error(error) => {
                    outcome(&error)?;
                    Err(NetlinkError::Unexpected("an acknowledgement".to_owned()))
                }
                other => Err(unexpected(&other)),
            }
        })
        .await
    }

    /// Asks for every object that the message describes, and returns the values that `keep` makes of them.
    pub(crate) async fn dump<T>(
        &self,
        message: RouteNetlinkMessage,
        mut keep: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            let (answers, generation) = self.send(message.clone(), NLM_F_DUMP)?;
            let read = read_dump(answers, &mut keep);
            let kept = self.within_timeout(generation, read).await?;
            #[cfg(feature = "faults")]
            let kept = kept.filter(|_| !crate::faults::dump_interrupted());
            if let Some(kept) = kept {
                return Ok(kept);
            }
        }
        Err(NetlinkError::Interrupted)
    }

    /// Sends a request. Returns its answers to come, and the generation of the connection that it was sent by.
    fn send(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(impl Stream<Item = Answer> + use<>, u64), NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let (mut handle, generation) = self.connection.handle();
        let answers = handle.request(request).map_err(|_| NetlinkError::Closed)?;
        Ok((answers, generation))
    }

    /// Waits for answers. A connection by which none has come in time is opened again: a socket that the kernel
    /// once called busy would never be written to any more.
    async fn within_timeout<T>(
        &self,
        generation: u64,
        work: impl Future<Output = Result<T, NetlinkError>>,
    ) -> Result<T, NetlinkError> {
        let outcome = tokio::time::timeout(TIMEOUT, work).await;
        outcome.unwrap_or_else(|_| {
            self.connection.give_up(generation);
            Err(NetlinkError::Timeout)
        })
    }
}

/// Reads a dump to its end; none if the table changed meanwhile.
async fn read_dump<T>(
    mut answers: impl Stream<Item = Answer> + Unpin,
    keep: &mut impl FnMut(RouteNetlinkMessage) -> Option<T>,
) -> Result<Option<Vec<T>>, NetlinkError> {
    let mut kept = Vec::new();
    let mut consistent = true;
    loop {
        let answer = answers.next().await.ok_or(NetlinkError::Closed)?;
        consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => kept.extend(keep(message)),
            NetlinkPayload::Done(done) if done.code == 0 => return Ok(consistent.then_some(kept)),
            NetlinkPayload::Done(done) => {
                return Err(NetlinkError::Refused {
                    errno: errno(done.code),
                    said: None,
                });
            }
            NetlinkPayload::Error(error) => outcome(&error)?,
            other => return Err(unexpected(&other)),
        }
    }
}

/// Reads an error message; one without a code is an acknowledgement.
fn outcome(error: &ErrorMessage) -> Result<(), NetlinkError> {
    match error.code {
        None => Ok(()),
        Some(code) => Err(NetlinkError::Refused {
            errno: errno(code.get()),
            said: said(&error.header),
        }),
    }
}

/// Reads the kernel's explanation from the attributes behind the repeated header.
fn said(header: &[u8]) -> Option<String> {
    let attributes = NlasIterator::new(header.get(NLMSG_HEADER_LEN..)?);
    let message = attributes
        .flatten()
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = message.value().split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Reads an error number, which netlink carries as a negative one.
fn errno(code: i32) -> Errno {
    Errno::from_raw(code.saturating_abs())
}

fn unexpected(payload: &NetlinkPayload<RouteNetlinkMessage>) -> NetlinkError {
    NetlinkError::Unexpected(format!("{payload:?}"))
}
