//! The connection to the kernel, by which requests are sent and answered.

use std::io;
use std::thread;

use futures_util::{Stream, StreamExt};
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket;

use super::error::{NetlinkError, TIMEOUT};

/// A dump that the table changed under is read again this often at once before it is an error.
const DUMP_TRIES: u32 = 4;
/// Length of `struct nlmsghdr`, which an error message repeats before its attributes.
const NLMSG_HEADER_LEN: usize = 16;
/// Attribute of an error message: the kernel's explanation in words (`NLMSGERR_ATTR_MSG`).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A connection to the kernel's routing netlink, in the network namespace of the thread that opened
/// it. Clones share it; any number of requests may be in flight, and they are carried out in the
/// order in which they were first polled.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
    port: u32,
}

impl Netlink {
    /// Opens a connection and starts the task that serves it, which ends with the last clone.
    ///
    /// To be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open() -> io::Result<Self> {
        let (netlink, connection) = Self::connect()?;
        tokio::spawn(connection);
        Ok(netlink)
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let (netlink, connection) = {
            let _entered = runtime.enter();
            Self::connect()?
        };
        thread::Builder::new()
            .name("netlink".to_owned())
            .spawn(move || {
                begin();
                runtime.block_on(connection);
            })?;
        Ok(netlink)
    }

    fn connect() -> io::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        // Strict checking is what makes the kernel apply the filters of a dump.
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        let socket = connection.socket_mut().socket_mut();
        // The explanation in words, without a copy of the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // By default the end of an answer and the end of the connection look the same.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let port = connection
            .socket_mut()
            .socket_mut()
            .bind_auto()?
            .port_number();
        Ok((Self { handle, port }, connection))
    }

    /// Returns the port of its socket, by which notifications name the author of a change.
    pub const fn port(&self) -> u32 {
        self.port
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
        let mut answers = self.send(message, flags | NLM_F_ACK)?;
        within_timeout(async {
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
        let mut answers = self.send(message, 0)?;
        within_timeout(async {
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
            let answers = self.send(message.clone(), NLM_F_DUMP)?;
            let kept = within_timeout(read_dump(answers, &mut keep)).await?;
            #[cfg(feature = "faults")]
            let kept = kept.filter(|_| !crate::faults::dump_interrupted());
            if let Some(kept) = kept {
                return Ok(kept);
            }
        }
        Err(NetlinkError::Interrupted)
    }

    fn send(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>, NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut handle = self.handle.clone();
        handle.request(request).map_err(|_| NetlinkError::Closed)
    }
}

async fn within_timeout<T>(
    work: impl Future<Output = Result<T, NetlinkError>>,
) -> Result<T, NetlinkError> {
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or(Err(NetlinkError::Timeout))
}

/// Reads a dump to its end; none if the table changed meanwhile.
async fn read_dump<T>(
    mut answers: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
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
