//! Serves connections, and bounds what clients may cost.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, warn};

/// Connections in the kernel's queue.
pub(super) const BACKLOG: i32 = 128;
/// How long a connection may take to send a request's header, or stay idle between two.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// How long a client may read nothing of what it has asked for.
const WRITE_TIME: Duration = Duration::from_secs(60);
/// How long requests under way may take to end when the agent stops.
const STOP_TIME: Duration = Duration::from_secs(2);

/// Accepts connections.
pub trait Accept {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Whose connections they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Those of the agent's own user: too many wait for each other.
    Ours,
    /// Of anybody, who may keep them open for ever. A connection is for one request and has
    /// ten seconds, Prometheus' own limit; of too many the oldest is closed.
    Anybodys,
}

impl Clients {
    /// How many are served at a time.
    const fn most(self) -> usize {
        match self {
            Self::Ours => 64,
            Self::Anybodys => 16,
        }
    }

    /// How long a connection may be open.
    const fn lifetime(self) -> Duration {
        match self {
            Self::Ours => Duration::MAX,
            Self::Anybodys => Duration::from_secs(10),
        }
    }
}

/// Serves until `stop` is ready; requests under way then have two seconds to end.
pub async fn serve<L: Accept>(
    listener: L,
    router: Router,
    clients: Clients,
    stop: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(clients.most()));
    // Of anybody's, the oldest first.
    let mut open = VecDeque::new();
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let stream = listener.accept().await;
            if clients == Clients::Anybodys {
                make_room(&mut open, clients.most());
            }
            // Never closed: an error cannot be.
            (slots.clone().acquire_owned().await.ok(), stream)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut stop => break,
            next = next => next,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: give them time to come back.
                warn!("accepting a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIME));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            // Who has said everything may close that half, and is answered all the same.
            .half_close(true)
            .keep_alive(clients == Clients::Ours)
            .serve_connection(
                TokioIo::new(Box::pin(stream)),
                TowerToHyperService::new(router.clone()),
            );
        let connection = graceful.watch(connection);
        let task = tokio::spawn(async move {
            match timeout(clients.lifetime(), connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("connection: {error}"),
                Err(_) => debug!("connection: not over in time"),
            }
            drop(slot);
        });
        if clients == Clients::Anybodys {
            open.push_back(task.abort_handle());
        }
    }
    drop(listener);
    if timeout(STOP_TIME, graceful.shutdown()).await.is_err() {
        debug!("requests under way were cut off");
    }
}

/// Closes the oldest connections, until another one fits.
fn make_room(open: &mut VecDeque<AbortHandle>, most: usize) {
    open.retain(|connection| !connection.is_finished());
    while open.len() >= most
        && let Some(oldest) = open.pop_front()
    {
        oldest.abort();
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::super::unix_socket::{API, UnixSocket};
    use super::*;

    /// More than the kernel keeps for a reader.
    const LARGE: usize = 16 << 20;

    async fn asked(directory: &TempDir, clients: Clients) -> UnixStream {
        let path = directory.path().join("socket");
        let listener = UnixSocket::bind(&path, API).unwrap();
        let routes = Router::new().route("/", get(async || vec![0_u8; LARGE]));
        tokio::spawn(serve(listener, routes, clients, std::future::pending()));
        let mut stream = UnixStream::connect(path).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream
    }

    async fn rest(mut stream: UnixStream) -> usize {
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        text.len()
    }

    /// The clock stands still but while everybody waits.
    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_let_go() {
        for (clients, patience) in [
            (Clients::Ours, WRITE_TIME),
            (Clients::Anybodys, Clients::Anybodys.lifetime()),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let stream = asked(&directory, clients).await;
            tokio::time::sleep(patience - Duration::from_secs(1)).await;
            assert!(rest(stream).await > LARGE, "{clients:?} in time");
            let directory = tempfile::tempdir().unwrap();
            let stream = asked(&directory, clients).await;
            tokio::time::sleep(patience + Duration::from_secs(1)).await;
            assert!(rest(stream).await < LARGE, "{clients:?} too late");
        }
    }
}
