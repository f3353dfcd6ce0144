//! A group of processes that may have so much memory, the kernel's on their behalf included.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where the controller is, and its limit's name: in hierarchies of the first version, and in the one of
/// the second.
const HIERARCHIES: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ("/sys/fs/cgroup", "memory.max"),
];

/// Goes away with its last process, when dropped.
#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Makes one; none where there is no such controller, or it is not for us.
    ///
    /// # Errors
    /// The limit cannot be set.
    pub fn new(name: &str, bytes: u64) -> anyhow::Result<Option<Self>> {
        for (hierarchy, limit) in HIERARCHIES {
            let path = Path::new(hierarchy).join(format!("{name}-{}", std::process::id()));
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Self(path);
            // A folder elsewhere, or a hierarchy whose controllers are others.
            if group.0.join(limit).exists() {
                let set = fs::write(group.0.join(limit), bytes.to_string());
                set.with_context(|| format!("{limit} of {}", group.0.display()))?;
                return Ok(Some(group));
            }
        }
        Ok(None)
    }

    /// Who writes its number there belongs to it.
    pub fn members(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // What has not ended yet keeps an empty folder there, no more.
        let _ = fs::remove_dir(&self.0);
    }
}
