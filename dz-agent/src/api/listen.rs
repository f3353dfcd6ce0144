//! Serves the API on its Unix socket, and bounds what clients of API and metrics may cost.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::error::{ExitCode, FailWith, Failure};
use crate::host::lock_file::{LockFile, NotTaken};

/// Connections served at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Connections in the kernel's queue.
pub(super) const BACKLOG: i32 = 128;
/// How long a connection may take to send a request's header, or stay idle between two.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// How long another agent may take to start with the same socket.
const LOCK_TIME: Duration = Duration::from_secs(5);
/// How long requests under way may take to end when the agent stops.
const STOP_TIME: Duration = Duration::from_secs(2);

/// Accepts connections.
pub trait Accept {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The API's Unix socket, mode 0600. Dropped, its file goes too.
#[derive(Debug)]
pub struct ApiListener {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl ApiListener {
    /// Makes the socket and, where missing, its directory (mode 0755). A dead agent's socket is
    /// replaced. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`ExitCode::Busy`] if a living agent has it, [`ExitCode::Privilege`] if we may not.
    pub fn bind(path: &Path) -> Result<Self, Failure> {
        Self::try_bind(path).map_err(|failure| {
            let denied = failure.error.chain().any(|cause| {
                let io = cause.downcast_ref::<io::Error>();
                io.is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
            });
            let hint = if denied {
                " (run as root, or give --socket)"
            } else {
                ""
            };
            let code = if denied {
                ExitCode::Privilege
            } else {
                failure.code
            };
            let error = failure
                .error
                .context(format!("API socket {}{hint}", path.display()));
            Failure { code, error }
        })
    }

    fn try_bind(path: &Path) -> Result<Self, Failure> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory);
        made.fail_with(ExitCode::Failure, || {
            format!("making {}", directory.display())
        })?;
        let _lock = lock(path)?;
        remove_dead(path)?;
        let (listener, inode) =
            listen(path).fail_with(ExitCode::Failure, || "making the socket".to_owned())?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
        })
    }
}

impl Drop for ApiListener {
    fn drop(&mut self) {
        // Whoever replaced the file keeps it.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            warn!("{}: {error}", self.path.display());
        }
    }
}

impl Accept for ApiListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(self.listener.accept().await?.0)
    }
}

/// Takes a lock beside the socket, so that two agents that start at once do not take the socket from each
/// other: between looking whether somebody answers and binding there is a gap, which only a lock closes.
fn lock(path: &Path) -> Result<LockFile, Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = Path::new(&name);
    let deadline = Instant::now() + LOCK_TIME;
    loop {
        match LockFile::acquire(file) {
            Ok(lock) => return Ok(lock),
            Err(NotTaken::Held(_)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(NotTaken::Held(_)) => {
                let what = format!("{} is locked by another process", file.display());
                return Err(Failure::new(ExitCode::Busy, what));
            }
            Err(NotTaken::Io(error)) => {
                return Err(error)
                    .fail_with(ExitCode::Failure, || format!("locking {}", file.display()));
            }
        }
    }
}

fn in_use() -> Failure {
    Failure::new(
        ExitCode::Busy,
        "another agent serves it: stop that one, or give this one its own --socket, --pin-dir and \
         --state-dir",
    )
}

/// Removes a socket that nobody listens on.
fn remove_dead(path: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).fail_with(ExitCode::Failure, || "looking".to_owned()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let what = "there is something else than a socket: move it, or give --socket";
            return Err(Failure::new(ExitCode::Failure, what));
        }
        Ok(_) => {}
    }
    match probe(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .fail_with(ExitCode::Failure, || {
                "removing a dead agent's socket".to_owned()
            }),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(error).fail_with(ExitCode::Privilege, || "looking".to_owned())
        }
        // On any other outcome an agent may be there.
        _ => Err(in_use()),
    }
}

/// Connects without waiting: a stopped agent's queue may be full.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn listen(path: &Path) -> anyhow::Result<(UnixListener, (u64, u64))> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The kernel gives the file the mode of the socket's own inode (`unix_bind_bsd`): set before
    // there is a file, nobody can slip in between.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?).context("bind")?;
    socket.listen(BACKLOG).context("listen")?;
    let metadata = fs::symlink_metadata(path)?;
    Ok((
        UnixListener::from_std(socket.into())?,
        (metadata.dev(), metadata.ino()),
    ))
}

/// Serves until `stop` is ready; requests under way then have two seconds to end.
pub async fn serve<L: Accept>(listener: L, router: Router, stop: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            // Never closed: an error cannot be.
            let slot = slots.clone().acquire_owned().await.ok();
            (slot, listener.accept().await)
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
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(router.clone()),
            );
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!("connection: {error}");
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(STOP_TIME, graceful.shutdown())
        .await
        .is_err()
    {
        debug!("requests under way were cut off");
    }
}
