//! Locks that keep a second agent from an interface and from a pin directory.
//!
//! Two agents on an interface would fight over its programs, its sessions and its routes. The locks are files
//! (`lock_file`) in a directory of root's alone. They vanish with the process, however it ends.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::holder::{self, Holder};
use super::lock_file::{self, LockFile, NotTaken};
use crate::error::{ExitCode, Failure};

/// Where the locks are. Agents that share a network namespace must share it: a container has to mount it.
pub const DIRECTORY: &str = "/run/dz-agent-locks";

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent serves the interface.
    #[error(
        "interface {interface}: already served by {}; stop that first, or name another interface",
        holder::list(holder.as_slice(), "another agent (not visible from here)")
    )]
    InterfaceBusy {
        /// The interface.
        interface: String,
        /// The process that holds the lock, as far as can be told.
        holder: Option<Holder>,
    },
    /// Another agent uses the pin directory.
    #[error(
        "pin directory {}: already used by {}; stop that first, or give another --pin-dir",
        path.display(), holder::list(holder.as_slice(), "another agent (not visible from here)")
    )]
    PinDirBusy {
        /// The directory.
        path: PathBuf,
        /// The process that holds the lock, as far as can be told.
        holder: Option<Holder>,
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
    /// The directory of the locks is somebody else's, who could hold any of them.
    #[error("directory of locks {}: belongs to user {uid}; remove it", path.display())]
    LocksForeign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The lock could not be tried.
    #[error("locking {what}{}", hint(source))]
    Io {
        /// The interface or directory that was to be locked.
        what: String,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
}

/// Says what to do where we may not make a file.
fn hint(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            format!(" (run as root, or make {DIRECTORY} for this user alone, mode 0700)")
        }
        _ => String::new(),
    }
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
        let code = match &error {
            error if error.is_busy() => ExitCode::Busy,
            LockError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                ExitCode::Privilege
            }
            _ => ExitCode::Failure,
        };
        Self {
            code,
            error: error.into(),
        }
    }
}

/// Takes a lock in a directory.
fn take(
    locks: &Path,
    name: &str,
    what: &dyn Fn() -> String,
    busy: impl FnOnce(Option<Holder>) -> LockError,
) -> Result<LockFile, LockError> {
    match lock_file::private_directory(locks) {
        Ok(None) => {}
        Ok(Some(uid)) => {
            return Err(LockError::LocksForeign {
                path: locks.to_owned(),
                uid,
            });
        }
        Err(error) => return Err(LockError::io(what(), error)),
    }
    LockFile::acquire(&locks.join(name)).map_err(|error| match error {
        NotTaken::Held(holder) => busy(holder),
        NotTaken::Io(error) => LockError::io(what(), error),
    })
}

/// The right to serve an interface name in this network namespace, for as long as the value lives.
#[derive(Debug)]
pub struct InterfaceLock {
    _file: LockFile,
}

impl InterfaceLock {
    /// Takes the lock, for the calling thread's network namespace. The interface need not exist.
    ///
    /// # Errors
    /// Another process holds it, or its file cannot be made.
    pub fn acquire(interface: &str) -> Result<Self, LockError> {
        Self::acquire_in(Path::new(DIRECTORY), interface)
    }

    fn acquire_in(locks: &Path, interface: &str) -> Result<Self, LockError> {
        let what = || format!("interface {interface}");
        let prefix = prefix().map_err(|error| LockError::io(what(), error))?;
        let busy = |holder| LockError::InterfaceBusy {
            interface: interface.to_owned(),
            holder,
        };
        let file = take(locks, &format!("{prefix}{interface}"), &what, busy)?;
        Ok(Self { _file: file })
    }
}

/// Returns the names of the interfaces in this network namespace that an agent serves or waits for, us included.
pub fn served() -> BTreeSet<String> {
    served_in(Path::new(DIRECTORY))
}

fn served_in(locks: &Path) -> BTreeSet<String> {
    match prefix() {
        Ok(prefix) => lock_file::locked(locks, &prefix),
        Err(_) => BTreeSet::new(),
    }
}

/// What the names of this network namespace's locks begin with: interfaces of one name in two namespaces are two.
fn prefix() -> io::Result<String> {
    let namespace = fs::metadata("/proc/thread-self/ns/net")?;
    Ok(format!("net-{}-", namespace.ino()))
}

/// Mode of a directory that only its owner may look into.
const PRIVATE: u32 = 0o700;
/// The bit of a directory in which only a file's owner may remove it.
const STICKY: u32 = 0o1000;

/// The right to use a pin directory, for as long as the value lives.
#[derive(Debug)]
pub struct PinDirLock {
    directory: File,
    /// The directories that were made for it, the innermost first.
    made: Vec<PathBuf>,
    _file: LockFile,
}

impl Drop for PinDirLock {
    fn drop(&mut self) {
        for path in &self.made {
            // Fails if something is in it, which is to stay.
            let _ = fs::remove_dir(path);
        }
    }
}

impl PinDirLock {
    /// Makes the directory where it is missing, and locks it.
    ///
    /// It is for its owner alone (mode 0700). Everybody may make directories in the root of a BPF file
    /// system, and whoever owns one may remove what is pinned in it. Unless it is [kept](Self::keep), a directory that is
    /// made here and empty at the end goes with this value.
    ///
    /// # Errors
    /// As [`Self::acquire`], or the directory cannot be made.
    pub fn create(path: &Path) -> Result<Self, LockError> {
        Self::create_in(Path::new(DIRECTORY), path)
    }

    fn create_in(locks: &Path, path: &Path) -> Result<Self, LockError> {
        let failed = |error| LockError::io(format!("pin directory {}", path.display()), error);
        let mut made = Vec::new();
        for directory in path.ancestors() {
            if directory.as_os_str().is_empty() || directory.try_exists().map_err(failed)? {
                break;
            }
            made.push(directory.to_owned());
        }
        let mut builder = DirBuilder::new();
        builder.mode(PRIVATE).recursive(true);
        builder.create(path).map_err(failed)?;
        let mut lock = Self::acquire_in(locks, path)?;
        lock.made = made;
        let mode = lock.directory.metadata().map_err(failed)?.mode();
        // An earlier version's. A sticky one is the root of the file system, which is for everybody.
        if mode & 0o077 != 0 && mode & STICKY == 0 {
            let private = Permissions::from_mode(PRIVATE);
            lock.directory.set_permissions(private).map_err(failed)?;
        }
        Ok(lock)
    }

    /// Leaves the directory, from now on.
    pub fn keep(&mut self) {
        self.made.clear();
    }

    /// Locks a directory that is there.
    ///
    /// # Errors
    /// Another process holds it, it is neither ours nor root's, or it cannot be opened.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        Self::acquire_in(Path::new(DIRECTORY), path)
    }

    /// The lock's name is the directory's device and number: whatever it is called here, it is one directory.
    fn acquire_in(locks: &Path, path: &Path) -> Result<Self, LockError> {
        let what = || format!("pin directory {}", path.display());
        let io = |error| LockError::io(what(), error);
        let directory = File::open(path).map_err(io)?;
        let metadata = directory.metadata().map_err(io)?;
        // Links can be made there by everybody, too: whoever owns one says where it leads, tomorrow as well.
        let link = fs::symlink_metadata(path).map_err(io)?;
        for uid in [link.uid(), metadata.uid()] {
            if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
                return Err(LockError::PinDirForeign {
                    path: path.to_owned(),
                    uid,
                });
            }
        }
        let busy = |holder| LockError::PinDirBusy {
            path: path.to_owned(),
            holder,
        };
        let name = format!("pins-{:x}-{}", metadata.dev(), metadata.ino());
        let file = take(locks, &name, &what, busy)?;
        Ok(Self {
            directory,
            made: Vec::new(),
            _file: file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_per_interface_name() {
        let locks = tempfile::tempdir().expect("a directory");
        let acquire = |interface| InterfaceLock::acquire_in(locks.path(), interface);
        let lock = acquire("eth0").expect("it is free");
        let error = acquire("eth0").expect_err("it is taken");
        assert!(error.is_busy());
        let us = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&us), "{error}");
        acquire("eth0x").expect("another name is free");
        assert_eq!(served_in(locks.path()), BTreeSet::from(["eth0".to_owned()]));
        drop(lock);
        assert!(served_in(locks.path()).is_empty());
        acquire("eth0").expect("it is free again");
    }

    #[test]
    fn one_holder_per_directory() {
        let (locks, directory) = (tempfile::tempdir(), tempfile::tempdir());
        let (locks, directory) = (locks.expect("made"), directory.expect("made"));
        let acquire = || PinDirLock::acquire_in(locks.path(), directory.path());
        let lock = acquire().expect("it is free");
        let error = acquire().expect_err("it is taken");
        assert!(error.is_busy());
        let words = error.to_string();
        let us = format!("process {}", std::process::id());
        assert!(
            words.contains(&us) && words.contains("--pin-dir"),
            "{words}"
        );
        drop(lock);
        acquire().expect("it is free again");
    }

    #[test]
    fn a_directory_is_made_and_kept_private() {
        let place = tempfile::tempdir().expect("a directory");
        let locks = place.path().join("locks");
        let path = place.path().join("pins");
        let mode = || fs::metadata(&path).expect("it is there").mode() & 0o7777;
        PinDirLock::create_in(&locks, &path).expect("made").keep();
        assert_eq!(mode(), 0o700);
        for (before, after) in [(0o755, 0o700), (0o1777, 0o1777)] {
            fs::set_permissions(&path, Permissions::from_mode(before)).expect("ours");
            drop(PinDirLock::create_in(&locks, &path).expect("it is ours"));
            assert_eq!(mode(), after, "{before:o}");
        }
    }

    #[test]
    fn a_directory_that_was_made_goes_unless_it_is_kept_or_used() {
        let place = tempfile::tempdir().expect("a directory");
        let locks = place.path().join("locks");
        let path = place.path().join("a/b");
        drop(PinDirLock::create_in(&locks, &path).expect("made"));
        assert!(!place.path().join("a").exists());
        let lock = PinDirLock::create_in(&locks, &path).expect("made");
        fs::write(path.join("theirs"), "").expect("written");
        drop(lock);
        assert!(path.join("theirs").exists());
        fs::remove_file(path.join("theirs")).expect("removed");
        drop(PinDirLock::create_in(&locks, &path).expect("it is there"));
        assert!(path.exists(), "not made then");
        fs::remove_dir(&path).expect("empty");
        let mut lock = PinDirLock::create_in(&locks, &path).expect("made");
        lock.keep();
        drop(lock);
        assert!(path.exists());
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let locks = place.path().join("locks");
        if std::os::unix::fs::chown(place.path(), Some(65_534), None).is_err() {
            eprintln!("SKIPPED: only root can give a directory away");
            return;
        }
        let error = PinDirLock::create_in(&locks, place.path()).expect_err("it is not ours");
        let words = error.to_string();
        assert!(
            error.is_busy() && words.contains("belongs to user 65534"),
            "{words}"
        );
    }

    #[test]
    fn a_link_of_another_user_is_not_followed() {
        let place = tempfile::tempdir().expect("a directory");
        let locks = place.path().join("locks");
        let (ours, link) = (place.path().join("ours"), place.path().join("link"));
        PinDirLock::create_in(&locks, &ours).expect("made").keep();
        fs::set_permissions(&ours, Permissions::from_mode(0o755)).expect("ours");
        std::os::unix::fs::symlink(&ours, &link).expect("made");
        drop(PinDirLock::acquire_in(&locks, &link).expect("one of our own leads where we want"));
        if std::os::unix::fs::lchown(&link, Some(65_534), None).is_err() {
            eprintln!("SKIPPED: only root can give a link away");
            return;
        }
        let error =
            PinDirLock::create_in(&locks, &link).expect_err("it may lead elsewhere tomorrow");
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
