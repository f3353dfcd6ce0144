//! Makes our discriminators, which are the same after a restart and a reboot, and unguessable to others.
//!
//! They are a keyed hash of what identifies the session, under a secret that is kept on disk. A packet
//! that echoes one is proven to come from somebody who hears us (see the protocol notes in
//! ARCHITECTURE.md). That they stay the same is a convenience: peers that know one believe our first
//! packet after a restart, and with another one they take an exchange of packets more.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use siphasher::sip::SipHasher24;
use tempfile::NamedTempFile;
use tracing::warn;

use crate::error::{ExitCode, Failure};

/// Name of the secret's file in the state directory.
pub const KEY_FILE: &str = "discriminator.key";
const KEY_LEN: usize = 16;
/// The mode bits of everybody but the owner.
const OTHERS: u32 = 0o077;

/// The secret that discriminators are derived from.
pub struct Identity {
    key: [u8; KEY_LEN],
}

impl Identity {
    /// Reads the secret, or makes one (mode 0600) where there is none yet, or something else in its place.
    /// One that others can read is taken away from them. Both are warned about.
    ///
    /// # Errors
    /// None can be made, or the one that is there cannot be read now: it is not replaced for that.
    pub fn load(state_dir: &Path) -> Result<Self, Failure> {
        let path = state_dir.join(KEY_FILE);
        let failed = |verb: &str, error: io::Error| Failure {
            code: match error.kind() {
                ErrorKind::PermissionDenied => ExitCode::Privilege,
                _ => ExitCode::Failure,
            },
            error: anyhow::Error::from(error).context(format!(
                "cannot {verb} the discriminator secret: {}: check --state-dir",
                path.display()
            )),
        };
        let read = || read(&path).map_err(|error| failed("read", error));
        let make =
            |existing| create(state_dir, &path, existing).map_err(|error| failed("make", error));
        let mut found = read()?;
        if matches!(found, Found::Nothing) {
            make(Existing::Keep)?;
            found = read()?;
        }
        let unusable = match found {
            Found::Key(key) => return Ok(Self { key }),
            // There is none behind a link.
            Found::Nothing => "it leads nowhere".to_owned(),
            Found::SomethingElse(what) => what,
        };
        warn!(
            file = %path.display(), error = unusable,
            "not a discriminator secret: replaced; peers that know our discriminators \
             take some intervals longer to come back, once"
        );
        make(Existing::Replace)?;
        match read()? {
            Found::Key(key) => Ok(Self { key }),
            _ => Err(failed("make", ErrorKind::InvalidData.into())),
        }
    }

    /// One with a secret that is known, for tests and the simulator.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) const fn known(key: [u8; KEY_LEN]) -> Self {
        Self { key }
    }

    /// Returns the discriminator of a session; always the same for the same arguments.
    pub fn discriminator(&self, interface: &str, local: Ipv4Addr, peer: Ipv4Addr) -> NonZeroU32 {
        // The addresses have a fixed length and come first: no two triples hash the same bytes.
        let mut bytes = [local.octets(), peer.octets()].concat();
        bytes.extend_from_slice(interface.as_bytes());
        let hash = SipHasher24::new_with_key(&self.key).hash(&bytes);
        let [low, high] = [hash as u32, (hash >> 32) as u32];
        NonZeroU32::new(low)
            .or(NonZeroU32::new(high))
            .unwrap_or(NonZeroU32::MIN)
    }
}

/// What there is by the secret's name.
enum Found {
    Key([u8; KEY_LEN]),
    Nothing,
    SomethingElse(String),
}

/// Reads the secret. Only `ENOENT` means that there is none.
fn read(path: &Path) -> io::Result<Found> {
    // O_NONBLOCK: a FIFO in its place must not hang the start.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let mut file = match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        file => file?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Found::SomethingElse("not a regular file".to_owned()));
    }
    if metadata.len() != KEY_LEN as u64 {
        let text = format!("{} bytes instead of {KEY_LEN}", metadata.len());
        return Ok(Found::SomethingElse(text));
    }
    let mut key = [0; KEY_LEN];
    file.read_exact(&mut key)?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        let (file_name, was) = (path.display(), format!("{mode:04o}"));
        match file.set_permissions(Permissions::from_mode(0o600)) {
            Ok(()) => warn!(
                file = %file_name, was,
                "discriminator secret was readable by others: mode 0600 now; delete the file if \
                 somebody may have read it, and a new one is made"
            ),
            Err(error) => warn!(file = %file_name, was, %error,
                "discriminator secret is readable by others: chmod 600 it"),
        }
    }
    Ok(Found::Key(key))
}

/// The action on a file that has the secret's name already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

/// Writes a new secret beside the file, and gives it its name when it is safely on disk: after a
/// crash there is a whole secret or none. A first one's name is given only if there is none yet, so of
/// two agents that start at once both use the secret of the first.
fn create(state_dir: &Path, path: &Path, existing: Existing) -> std::io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)?;
    let mut key = [0; KEY_LEN];
    getrandom::fill(&mut key)?;
    let mut file = NamedTempFile::new_in(state_dir)?; // mode 0600
    file.write_all(&key)?;
    file.as_file().sync_all()?;
    let named = match existing {
        Existing::Replace => file.persist(path),
        Existing::Keep => file.persist_noclobber(path),
    };
    match named {
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => return Err(error.error),
        _ => {}
    }
    File::open(state_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn known_answer() {
        // Computed with another implementation of SipHash-2-4. A changed hash would strand the
        // deployed peers of every host that is upgraded.
        let identity = Identity {
            key: std::array::from_fn(|i| i as u8),
        };
        let of = |interface| identity.discriminator(interface, LOCAL, PEER).get();
        assert_eq!(of("doublezero0"), 0x6eb5_cfe9);
    }

    #[test]
    fn every_part_matters() {
        let identity = Identity { key: [7; KEY_LEN] };
        let other_key = Identity { key: [8; KEY_LEN] };
        let all = [
            identity.discriminator("a", LOCAL, PEER),
            identity.discriminator("b", LOCAL, PEER),
            identity.discriminator("a", PEER, LOCAL),
            identity.discriminator("a", LOCAL, LOCAL),
            other_key.discriminator("a", LOCAL, PEER),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let first = Identity::load(&state).unwrap();
        let mode = fs::metadata(state.join(KEY_FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Identity::load(&state).unwrap().key, first.key);
        assert_eq!(
            fs::read_dir(&state).unwrap().count(),
            1,
            "nothing else left behind"
        );
        let other = Identity::load(&dir.path().join("other")).unwrap();
        assert_ne!(other.key, first.key);
    }

    #[test]
    fn readable_by_others_is_tightened_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        for mode in [0o640, 0o604, 0o666] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(Identity::load(dir.path()).unwrap().key, first.key);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_cannot_be_opened_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        // ELOOP, as any other error but ENOENT.
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let failure = Identity::load(dir.path()).err().unwrap();
        assert!(failure.to_string().contains("cannot read"), "{failure}");
        assert!(
            fs::symlink_metadata(&path).unwrap().is_symlink(),
            "left alone"
        );
    }

    #[test]
    fn what_is_no_secret_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        let spoil: [&dyn Fn(); 4] = [
            &|| fs::write(&path, [0; 5]).unwrap(),
            &|| fs::write(&path, [0; 500]).unwrap(),
            &|| {
                fs::remove_file(&path).unwrap();
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
            },
            &|| {
                fs::remove_file(&path).unwrap();
                std::os::unix::fs::symlink("/nowhere/at/all", &path).unwrap();
            },
        ];
        for spoil in spoil {
            spoil();
            let replaced = Identity::load(dir.path()).unwrap();
            assert_ne!(replaced.key, first.key);
            assert_eq!(
                Identity::load(dir.path()).unwrap().key,
                replaced.key,
                "kept"
            );
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let message = Identity::load(dir.path()).err().unwrap().to_string();
        assert!(message.contains("--state-dir"), "{message}");
    }
}
