//! Keeps the types of this layout's maps in a file, for a version to come: the kernel tells them only with `CAP_SYS_ADMIN`, for
//! it opens BTF by its number alone.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use aya_obj::Object;
use dz_common::map::ABI_VERSION;
use tempfile::NamedTempFile;

use crate::datapath::object::OBJECT;
use crate::error::{ExitCode, Failure};

/// Stores the BTF of this version's object in the state directory, unless it is there already.
///
/// # Errors
/// [`ExitCode::Failure`] if it cannot be stored.
pub fn keep_types(state_dir: &Path) -> Result<(), Failure> {
    let path = path(state_dir, ABI_VERSION);
    let keep = || -> anyhow::Result<()> {
        let types = our_types()?;
        if fs::read(&path).is_ok_and(|kept| kept == types) {
            return Ok(());
        }
        let mut file = NamedTempFile::new_in(state_dir)?;
        file.write_all(&types)?;
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o600))?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    keep().map_err(|error| Failure {
        code: ExitCode::Failure,
        error: error.context(format!("{}: check --state-dir", path.display())),
    })
}

/// Reads the BTF of this version's object.
pub(super) fn our_types() -> anyhow::Result<Vec<u8>> {
    let object = Object::parse(OBJECT)?;
    Ok(object.btf.context("the BPF object has no BTF")?.to_bytes())
}

/// Reads the BTF of an earlier layout from the state directory; none if no version has stored it.
pub(super) fn kept_types(state_dir: &Path, layout: u32) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path(state_dir, layout)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        types => types.map(Some),
    }
}

fn path(state_dir: &Path, layout: u32) -> PathBuf {
    state_dir.join(format!("layout-{layout}.btf"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::upgrade::btf::Btf;

    #[test]
    fn what_is_kept_has_our_types() {
        let state = tempfile::tempdir().expect("a directory");
        assert_eq!(kept_types(state.path(), ABI_VERSION).expect("read"), None);
        keep_types(state.path()).expect("stored");
        keep_types(state.path()).expect("the same");
        let kept = kept_types(state.path(), ABI_VERSION)
            .expect("read")
            .expect("there");
        assert!(Btf::parse(&kept).is_some(), "BTF");
        let name = b"SessionEntry\0";
        assert!(kept.windows(name.len()).any(|bytes| bytes == name));
    }
}
