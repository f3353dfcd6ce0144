//! Listens on a Unix socket, of which a living agent's is left alone and a dead one's replaced.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tracing::warn;

use super::connections::{Accept, BACKLOG};
use crate::error::{ExitCode, FailWith, Failure};
use crate::host::lock_file::{LockFile, NotTaken};

/// How long another agent may take to start with the same socket.
const LOCK_TIME: Duration = Duration::from_secs(5);

/// What a socket is for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// Its name, for people.
    what: &'static str,
    /// The option that names its path.
    option: &'static str,
    /// What a second agent on this host has to be given.
    options: &'static str,
    /// Who may connect.
    mode: u32,
}

/// The API: for the agent's user alone.
pub const API: Purpose = Purpose {
    what: "API socket",
    option: "--socket",
    options: "--socket, --pin-dir and --state-dir",
    mode: 0o600,
};
/// Metrics for those who need not see the rest: for the agent's group, too.
pub(super) const METRICS: Purpose = Purpose {
    what: "metrics socket",
    option: "--metrics-listen",
    options: "--metrics-listen",
    mode: 0o660,
};

/// A Unix socket. Dropped, its file goes too.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl UnixSocket {
    /// Makes the socket and, where missing, its directory (mode 0755). A dead agent's socket is
    /// replaced. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`ExitCode::Busy`] if a living agent has it, [`ExitCode::Privilege`] if we may not.
    pub fn bind(path: &Path, purpose: Purpose) -> Result<Self, Failure> {
        Self::try_bind(path, purpose).map_err(|failure| {
            let denied = failure.error.chain().any(|cause| {
                let io = cause.downcast_ref::<io::Error>();
                io.is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
            });
            let hint = match denied {
                true => format!(" (run as root, or give {})", purpose.option),
                false => String::new(),
            };
            let code = if denied {
                ExitCode::Privilege
            } else {
                failure.code
            };
            let error = failure
                .error
                .context(format!("{} {}{hint}", purpose.what, path.display()));
            Failure { code, error }
        })
    }

    fn try_bind(path: &Path, purpose: Purpose) -> Result<Self, Failure> {
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
        remove_dead(path, purpose)?;
        let (listener, inode) = listen(path, purpose.mode)
            .fail_with(ExitCode::Failure, || "making the socket".to_owned())?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
        })
    }
}

impl UnixSocket {
    /// Returns where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Whoever replaced the file keeps it.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            warn!("{}: {error}", self.path.display());
        }
    }
}

impl Accept for UnixSocket {
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

fn in_use(purpose: Purpose) -> Failure {
    let options = purpose.options;
    let what =
        format!("another agent serves it: stop that one, or give this one its own {options}");
    Failure::new(ExitCode::Busy, what)
}

/// Removes a socket that nobody listens on.
fn remove_dead(path: &Path, purpose: Purpose) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).fail_with(ExitCode::Failure, || "looking".to_owned()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let option = purpose.option;
            let what = format!("there is something else than a socket: move it, or give {option}");
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
        _ => Err(in_use(purpose)),
    }
}

/// Connects without waiting: a stopped agent's queue may be full.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn listen(path: &Path, mode: u32) -> anyhow::Result<(UnixListener, (u64, u64))> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The kernel gives the file the mode of the socket's own inode (`unix_bind_bsd`): set before
    // there is a file, nobody can slip in between.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(mode))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?).context("bind")?;
    // Less what the umask takes, which is given back.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG).context("listen")?;
    let metadata = fs::symlink_metadata(path)?;
    Ok((
        UnixListener::from_std(socket.into())?,
        (metadata.dev(), metadata.ino()),
    ))
}
