//! Locks that keep a second agent from an interface and from a pin directory.
//!
//! Two agents on an interface would fight over its programs, its sessions and its routes. Both
//! locks vanish with the process, however it ends.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};

use super::holder::{self, Holder};
use crate::error::{ExitCode, Failure};

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent serves the interface.
    #[error(
        "interface {interface}: already served by {}; stop that first, or name another interface",
        holder::list(holders, "another agent (not visible from here)")
    )]
    InterfaceBusy {
        /// The interface.
        interface: String,
        /// The processes that hold the lock, as far as can be told.
        holders: Vec<Holder>,
    },
    /// Another agent uses the pin directory.
    #[error(
        "pin directory {}: already used by {}; stop that first, or give another --pin-dir",
        path.display(), holder::list(holders, "another agent (not visible from here)")
    )]
    PinDirBusy {
        /// The directory.
        path: PathBuf,
        /// The processes that hold the lock, as far as can be told.
        holders: Vec<Holder>,
    },
    /// The pin directory is somebody else's, who could take our pins away.
    #[error(
        "pin directory {}: belongs to user {uid}, who could take the programs off the interface; \
         remove it, or give another --pin-dir",
        path.display()
    )]
    PinDirForeign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The lock could not be tried.
    #[error("locking {what}")]
    Io {
        /// The interface or directory that was to be locked.
        what: String,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
}

impl LockError {
    /// Says whether somebody else has the lock, most likely another agent.
    pub const fn is_busy(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }

    fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what: what.into(),
            source: source.into(),
        }
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let code = if error.is_busy() {
            ExitCode::Busy
        } else {
            ExitCode::Failure
        };
        Self {
            code,
            error: error.into(),
        }
    }
}

/// The right to serve an interface name in this network namespace, for as long as the value lives.
///
/// An abstract Unix socket: its names are per network namespace, as interface names are, it needs no
/// file, and it vanishes with the process. It does not listen, so nothing can queue on it. (Any
/// process on the host can take the name before us; the message says which did.)
#[derive(Debug)]
pub struct InterfaceLock {
    _socket: OwnedFd,
}

impl InterfaceLock {
    /// Takes the lock, for the calling thread's network namespace. The interface need not exist.
    ///
    /// # Errors
    /// Another process holds it, or no socket can be had.
    pub fn acquire(interface: &str) -> Result<Self, LockError> {
        let name = format!("dz-agent/{interface}");
        let what = || format!("interface {interface}");
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(|errno| LockError::io(what(), errno))?;
        let address = UnixAddr::new_abstract(name.as_bytes())
            .map_err(|errno| LockError::io(what(), errno))?;
        match bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address) {
            Ok(()) => Ok(Self { _socket: socket }),
            Err(Errno::EADDRINUSE) => {
                let holders = holder::of_sockets(&unix_sockets(&name));
                Err(LockError::InterfaceBusy {
                    interface: interface.to_owned(),
                    holders,
                })
            }
            Err(errno) => Err(LockError::io(what(), errno)),
        }
    }
}

/// Returns the names of the interfaces in this network namespace that an agent serves or waits for, us included.
pub fn served() -> BTreeSet<String> {
    let table = holder::net_table("unix");
    let name = |line: &str| {
        let path = line.split_whitespace().nth(7)?;
        Some(path.strip_prefix("@dz-agent/")?.to_owned())
    };
    table.lines().filter_map(name).collect()
}

/// Reads the inodes of the abstract sockets of a name. Columns: number, references, protocol, flags, type,
/// state, inode, path.
fn unix_sockets(name: &str) -> BTreeSet<u64> {
    let table = holder::net_table("unix");
    let path = format!("@{name}");
    let inode = |line: &str| {
        let mut columns = line.split_whitespace().skip(6);
        let inode = columns.next()?.parse().ok()?;
        (columns.next() == Some(path.as_str())).then_some(inode)
    };
    table.lines().filter_map(inode).collect()
}

/// Mode of a directory that only its owner may look into.
const PRIVATE: u32 = 0o700;
/// The bit of a directory in which only a file's owner may remove it.
const STICKY: u32 = 0o1000;

/// The right to use a pin directory, for as long as the value lives.
#[derive(Debug)]
pub struct PinDirLock {
    directory: Flock<File>,
}

impl PinDirLock {
    /// Makes the directory where it is missing, and locks it.
    ///
    /// It is for its owner alone (mode 0700). Everybody may make directories in the root of a BPF file
    /// system, and whoever owns one may remove what is pinned in it; and whoever may open a directory may
    /// lock it, which would keep us from starting.
    ///
    /// # Errors
    /// As [`Self::acquire`], or the directory cannot be made.
    pub fn create(path: &Path) -> Result<Self, LockError> {
        let failed = |error| LockError::io(format!("pin directory {}", path.display()), error);
        let mut builder = DirBuilder::new();
        builder.mode(PRIVATE).recursive(true);
        builder.create(path).map_err(failed)?;
        let lock = Self::acquire(path)?;
        let mode = lock.directory.metadata().map_err(failed)?.mode();
        // An earlier version's. A sticky one is the root of the file system, which is for everybody.
        if mode & 0o077 != 0 && mode & STICKY == 0 {
            let private = Permissions::from_mode(PRIVATE);
            lock.directory.set_permissions(private).map_err(failed)?;
        }
        Ok(lock)
    }

    /// Locks the directory itself: the BPF file system has no ordinary files that could be locked.
    ///
    /// # Errors
    /// Another process holds it, it is neither ours nor root's, or it cannot be opened.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let what = || format!("pin directory {}", path.display());
        let io = |error| LockError::io(what(), error);
        let directory = File::open(path).map_err(io)?;
        // Links can be made there by everybody, too: whoever owns one says where it leads, tomorrow as well.
        for metadata in [fs::symlink_metadata(path), directory.metadata()] {
            let uid = metadata.map_err(io)?.uid();
            if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
                return Err(LockError::PinDirForeign {
                    path: path.to_owned(),
                    uid,
                });
            }
        }
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(directory) => Ok(Self { directory }),
            Err((directory, Errno::EWOULDBLOCK)) => Err(LockError::PinDirBusy {
                path: path.to_owned(),
                holders: flock_holders(&directory),
            }),
            Err((_, errno)) => Err(LockError::io(what(), errno)),
        }
    }
}

/// Finds the processes that have locked the file. Columns of /proc/locks: number, class, mode, type,
/// process, device and inode (`major:minor:inode`, the first two in hexadecimal), range.
fn flock_holders(file: &File) -> Vec<Holder> {
    let Ok(metadata) = file.metadata() else {
        return Vec::new();
    };
    let device = metadata.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let id = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let pid = |line: &str| {
        let mut columns = line.split_whitespace().skip(1);
        let class = columns.next()?;
        let pid = columns.nth(2)?.parse().ok()?;
        (class == "FLOCK" && columns.next() == Some(id.as_str())).then_some(pid)
    };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().filter_map(pid).map(Holder::of_pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_per_interface_name() {
        let interface = format!("t{}", std::process::id());
        let lock = InterfaceLock::acquire(&interface).expect("it is free");
        let error = InterfaceLock::acquire(&interface).expect_err("it is taken");
        assert!(error.is_busy());
        let us = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&us), "{error}");
        InterfaceLock::acquire(&format!("{interface}x")).expect("another name is free");
        assert!(served().contains(&interface));
        drop(lock);
        assert!(!served().contains(&interface));
        InterfaceLock::acquire(&interface).expect("it is free again");
    }

    #[test]
    fn one_holder_per_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let lock = PinDirLock::acquire(directory.path()).expect("it is free");
        let error = PinDirLock::acquire(directory.path()).expect_err("it is taken");
        assert!(error.is_busy());
        let words = error.to_string();
        let us = format!("process {}", std::process::id());
        assert!(
            words.contains(&us) && words.contains("--pin-dir"),
            "{words}"
        );
        drop(lock);
        PinDirLock::acquire(directory.path()).expect("it is free again");
    }

    #[test]
    fn a_directory_is_made_and_kept_private() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("pins");
        let mode = || fs::metadata(&path).expect("it is there").mode() & 0o7777;
        drop(PinDirLock::create(&path).expect("made"));
        assert_eq!(mode(), 0o700);
        for (before, after) in [(0o755, 0o700), (0o1777, 0o1777)] {
            fs::set_permissions(&path, Permissions::from_mode(before)).expect("ours");
            drop(PinDirLock::create(&path).expect("it is ours"));
            assert_eq!(mode(), after, "{before:o}");
        }
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        if std::os::unix::fs::chown(place.path(), Some(65_534), None).is_err() {
            eprintln!("SKIPPED: only root can give a directory away");
            return;
        }
        let error = PinDirLock::create(place.path()).expect_err("it is not ours");
        let words = error.to_string();
        assert!(
            error.is_busy() && words.contains("belongs to user 65534"),
            "{words}"
        );
    }

    #[test]
    fn a_link_of_another_user_is_not_followed() {
        let place = tempfile::tempdir().expect("a directory");
        let (ours, link) = (place.path().join("ours"), place.path().join("link"));
        drop(PinDirLock::create(&ours).expect("made"));
        fs::set_permissions(&ours, Permissions::from_mode(0o755)).expect("ours");
        std::os::unix::fs::symlink(&ours, &link).expect("made");
        drop(PinDirLock::acquire(&link).expect("one of our own leads where we want"));
        if std::os::unix::fs::lchown(&link, Some(65_534), None).is_err() {
            eprintln!("SKIPPED: only root can give a link away");
            return;
        }
        let error = PinDirLock::create(&link).expect_err("it may lead elsewhere tomorrow");
        assert!(
            error.to_string().contains("belongs to user 65534"),
            "{error}"
        );
        let mode = fs::metadata(&ours).expect("it is there").mode() & 0o777;
        assert_eq!(mode, 0o755, "left alone");
    }

    #[test]
    fn a_missing_directory_is_not_busy() {
        let error = PinDirLock::acquire(Path::new("/no/such/directory")).expect_err("missing");
        assert!(!error.is_busy());
    }
}
