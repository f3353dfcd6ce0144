//! A connection to the kernel that is opened again when it breaks: one failed system call ends the library's
//! connection, and with it every request that will ever be made by it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rtnetlink::Handle;
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use tokio::sync::watch;
use tracing::{info, warn};

/// The pauses between tries to open a connection again. The last one repeats.
const PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
];
/// A connection that could not be opened again as often as this is lost.
const TRIES: usize = 8;

/// The library's side of a connection: it sends requests and hands out answers until a system call fails.
type Library = BoxFuture<'static, ()>;

/// The part of a connection that requests share with the task that serves it.
#[derive(Debug)]
pub(super) struct Connection {
    current: Mutex<Current>,
    /// The port of its socket, also of the next one.
    port: u32,
    /// The last generation that does not answer.
    broken: watch::Sender<u64>,
    /// Whether it could not be opened again. The task has the other end.
    lost: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Current {
    handle: Handle,
    /// How often the connection has been opened.
    generation: u64,
}

impl Connection {
    /// Opens a connection. Returns it and the task that serves it, which ends when nobody has the connection any
    /// more. To be called inside a tokio runtime with I/O, on which the task is to run.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub(super) fn open() -> io::Result<(Arc<Self>, impl Future<Output = ()> + Send + 'static)> {
        let (handle, port, library) = connect(0)?;
        let generation = 1;
        let (tell, lost) = watch::channel(false);
        let connection = Arc::new(Self {
            current: Mutex::new(Current { handle, generation }),
            port,
            broken: watch::Sender::new(0),
            lost,
        });
        let served = Arc::downgrade(&connection);
        let broken = connection.broken.subscribe();
        Ok((connection, serve(served, library, broken, tell)))
    }

    /// Returns the port of its socket.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Returns the handle for a request, and the generation to which the request belongs.
    pub(super) fn handle(&self) -> (Handle, u64) {
        let current = self.current();
        (current.handle.clone(), current.generation)
    }

    /// Has the connection opened again, unless it has been since this generation: the kernel has not answered.
    pub(super) fn give_up(&self, generation: u64) {
        self.broken.send_if_modified(|broken| {
            let newer = *broken < generation;
            *broken = generation.max(*broken);
            newer
        });
    }

    /// Waits until the connection is lost: it could not be opened again, or the task that serves it has ended.
    pub(super) async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error: the task has ended.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a connection, and opens it again whenever it breaks.
async fn serve(
    served: Weak<Connection>,
    mut library: Library,
    mut broken: watch::Receiver<u64>,
    tell: watch::Sender<bool>,
) {
    let mut generation = 1;
    loop {
        let why = tokio::select! {
            () = &mut library => "a system call has failed",
            gone = broken.wait_for(|broken| *broken >= generation) => match gone {
                Ok(_) => "the kernel has not answered",
                // Nobody has the connection any more.
                Err(_) => return,
            },
        };
        let Some(port) = served.upgrade().map(|served| served.port) else {
            return;
        };
        warn!(why, "netlink connection broken; opening it again");
        // Closes the socket, whose port the next one gets.
        drop(library);
        let handle;
        (handle, library) = open_again(port, &tell).await;
        let Some(served) = served.upgrade() else {
            return;
        };
        generation += 1;
        *served.current() = Current { handle, generation };
        info!("netlink connection opened again");
    }
}

async fn open_again(port: u32, tell: &watch::Sender<bool>) -> (Handle, Library) {
    let mut tries = 0;
    loop {
        tokio::time::sleep(PAUSES[tries.min(PAUSES.len() - 1)]).await;
        match connect(port) {
            Ok((handle, _, library)) => return (handle, library),
            Err(error) => {
                tries += 1;
                if tries == TRIES {
                    warn!(%error, "netlink connection lost");
                    // The receiver is gone with the connection.
                    let _ = tell.send(true);
                }
            }
        }
    }
}

/// Opens a socket with a port, 0 for any. Returns its handle, its port and the library's future that serves it.
fn connect(port: u32) -> io::Result<(Handle, u32, Library)> {
    // Strict checking is what makes the kernel apply the filters of a dump.
    let (mut library, handle, _) = rtnetlink::new_connection_with_strict_check()?;
    // By default the end of an answer and the end of the connection look the same.
    library.set_forward_ack(true);
    library.set_forward_done(true);
    let socket = library.socket_mut().socket_mut();
    // The explanation in words, without a copy of the request.
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    let port = if port == 0 {
        socket.bind_auto()?.port_number()
    } else {
        socket.bind(&SocketAddr::new(port, 0))?;
        port
    };
    Ok((handle, port, library.boxed()))
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use rtnetlink::packet_route::RouteNetlinkMessage;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

    use crate::net::{Netlink, NetlinkError, links};

    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

    /// A request that is longer than a socket may send (EMSGSIZE).
    fn too_long() -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        let long = "x".repeat(60_000);
        message.attributes = vec![LinkAttribute::IfAlias(long); 200];
        RouteNetlinkMessage::GetLink(message)
    }

    /// Asks for the loopback interface until there is an answer.
    async fn answers(netlink: &Netlink) {
        let asking = async {
            while links::by_name(netlink, "lo").await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking)
            .await
            .expect("an answer");
    }

    #[tokio::test]
    async fn a_failed_system_call_costs_one_request() {
        for netlink in [
            Netlink::open().unwrap(),
            Netlink::open_beside(|| ()).unwrap(),
        ] {
            answers(&netlink).await;
            let port = netlink.port();
            for _ in 0..3 {
                let refused = netlink.get(too_long()).await;
                assert_eq!(refused.unwrap_err(), NetlinkError::Closed);
                answers(&netlink).await;
            }
            assert_eq!(netlink.port(), port);
            let nobody = links::by_name(&netlink, "no-such-link").await;
            assert!(nobody.is_ok_and(|link| link.is_none()));
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_opened_again_once() {
        let netlink = Netlink::open().unwrap();
        answers(&netlink).await;
        for _ in 0..3 {
            netlink.give_up(1);
        }
        let opened = async {
            while netlink.generation() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, opened)
            .await
            .expect("opened again");
        netlink.give_up(1);
        answers(&netlink).await;
        assert_eq!(netlink.generation(), 2);
    }

    #[tokio::test]
    async fn one_that_is_not_served_any_more_is_lost() {
        let (connection, task) = super::Connection::open().unwrap();
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), connection.lost());
        assert!(waiting.await.is_err(), "it is served still");
        drop(task);
        tokio::time::timeout(PATIENCE, connection.lost())
            .await
            .expect("lost");
    }

    #[test]
    fn a_port_that_somebody_has_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let (_handle, port, _library) = super::connect(0).unwrap();
        let refused = super::connect(port).map(|_| ()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EADDRINUSE as i32));
    }
}
