//! Locks on files that nobody else can open, in a directory where nobody else can make one.
//!
//! Whoever may open a file may lock it, and whoever may make a file's name first has it. So the names are in
//! a directory of ours alone. A lock is one of the open file description (`F_OFD_SETLK`): it vanishes with the process,
//! and the kernel says whether one is held without its being tried (`F_OFD_GETLK`), which a `flock` cannot.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::holder::Holder;

/// Why a lock was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// Another process has it; which one, as far as can be told.
    Held(Option<Holder>),
    /// The file cannot be opened or locked.
    Io(io::Error),
}

impl From<io::Error> for NotTaken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A file that is locked for as long as the value lives, and then removed.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    path: PathBuf,
}

impl LockFile {
    /// Makes the file where it is missing (mode 0600), locks it, and writes our process id into it, for
    /// [`NotTaken::Held`] of others.
    pub(crate) fn acquire(path: &Path) -> Result<Self, NotTaken> {
        loop {
            let mut file = open(path, true)?;
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    return Err(NotTaken::Held(holder(&mut file, path)));
                }
                Err(errno) => return Err(NotTaken::Io(errno.into())),
            }
            // Its last holder may have removed it since it was opened: then the name is another file's, or nobody's.
            if !is_named(&file, path) {
                continue;
            }
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            return Ok(Self {
                file,
                path: path.to_owned(),
            });
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Before the lock goes, so that nobody has the lock of a file that is removed then.
        if is_named(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the names of the files in a directory that are locked, by us or others, and begin with a prefix, without it.
pub(crate) fn locked(directory: &Path, prefix: &str) -> BTreeSet<String> {
    let is_held = |path: &Path| {
        let file = match open(path, false) {
            Ok(file) => file,
            // One that cannot be looked at may be held.
            Err(error) => return error.kind() != ErrorKind::NotFound,
        };
        let mut lock = whole(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).is_err()
            || i32::from(lock.l_type) != libc::F_UNLCK
    };
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let name = |file: fs::DirEntry| {
        let name = file.file_name().into_string().ok()?;
        let name = name.strip_prefix(prefix)?.to_owned();
        is_held(&file.path()).then_some(name)
    };
    files.filter_map(name).collect()
}

/// Makes a directory that is its owner's alone (mode 0700) where it is missing, and returns the user who
/// could take locks in it, if that is neither we nor root.
pub(crate) fn private_directory(path: &Path) -> io::Result<Option<u32>> {
    let mut builder = DirBuilder::new();
    match builder.mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    let uid = metadata.uid();
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return Ok(Some(uid));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(None)
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(create);
    options
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

fn is_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// A lock of the whole file.
fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        // Must be 0 for locks of descriptions, fcntl(2).
        l_pid: 0,
    }
}

/// Finds the process whose id is in the file, if it is one of ours to see: in another process namespace, the
/// number is somebody else's here.
fn holder(file: &mut File, path: &Path) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let has = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|link| link == path);
    open.flatten().any(has).then(|| Holder::of_pid(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_and_goes_with_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a-eth0");
        let lock = LockFile::acquire(&path).expect("it is free");
        assert_eq!(fs::metadata(&path).expect("made").mode() & 0o777, 0o600);
        let held = LockFile::acquire(&path).expect_err("it is taken");
        let NotTaken::Held(Some(holder)) = held else {
            panic!("{held:?}");
        };
        assert_eq!(holder.pid, std::process::id());
        let seen = locked(directory.path(), "a-");
        assert_eq!(seen, BTreeSet::from(["eth0".to_owned()]));
        assert!(locked(directory.path(), "b-").is_empty());
        drop(lock);
        assert!(!path.exists());
        drop(LockFile::acquire(&path).expect("it is free again"));
    }

    #[test]
    fn a_file_that_a_dead_process_left_is_no_lock() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("eth0");
        fs::write(&path, "1\n").expect("written");
        assert!(locked(directory.path(), "").is_empty());
        drop(LockFile::acquire(&path).expect("nobody has it"));
    }

    #[test]
    fn a_removed_file_is_not_mistaken_for_the_lock() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("eth0");
        let first = LockFile::acquire(&path).expect("it is free");
        fs::remove_file(&path).expect("somebody removed it");
        let second = LockFile::acquire(&path).expect("another file of this name");
        drop(first);
        assert!(
            path.exists(),
            "the second's file is not the first's to remove"
        );
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, elsewhere) = (directory.path().join("a"), directory.path().join("b"));
        std::os::unix::fs::symlink(&elsewhere, &path).expect("made");
        assert!(matches!(LockFile::acquire(&path), Err(NotTaken::Io(_))));
        assert!(!elsewhere.exists());
    }

    #[test]
    fn a_directory_is_made_private_or_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("locks");
        assert_eq!(private_directory(&path).expect("made"), None);
        let mode = || fs::metadata(&path).expect("there").mode() & 0o777;
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("ours");
        assert_eq!(private_directory(&path).expect("ours"), None);
        assert_eq!(mode(), 0o700);
        let file = place.path().join("file");
        fs::write(&file, "").expect("written");
        private_directory(&file).expect_err("not a directory");
        if std::os::unix::fs::chown(&path, Some(65_534), None).is_err() {
            eprintln!("SKIPPED: only root can give a directory away");
            return;
        }
        assert_eq!(private_directory(&path).expect("looked at"), Some(65_534));
    }
}
