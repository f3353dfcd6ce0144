//! Puts namespaces, pins and files of the demo into the system, and takes them away again.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use xshell::cmd;

use super::console::Console;
use crate::shell::{self, sh};

const NAMESPACES: &str = "/run/netns";
const BPF_FS: &str = "/sys/fs/bpf";
const FILES: &str = "/run";

/// Our things in the system. Each has a name that starts with the prefix, and is removed on drop.
#[derive(Debug)]
pub(super) struct Stage {
    prefix: String,
    namespaces: Vec<String>,
    /// Whether the BPF file system was mounted by us.
    mounted: bool,
}

impl Stage {
    /// Begins with nothing. The prefix has our process id in it.
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            namespaces: Vec::new(),
            mounted: false,
        }
    }

    /// Returns the folder for sockets, state and logs.
    pub(super) fn folder(prefix: &str) -> PathBuf {
        Path::new(FILES).join(prefix)
    }

    /// Returns an agent's folder for pins.
    pub(super) fn pin_dir(prefix: &str, name: &str) -> PathBuf {
        Path::new(BPF_FS).join(format!("{prefix}-{name}"))
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// It is there already, or cannot be made.
    pub(super) fn make_folder(&self) -> anyhow::Result<()> {
        let folder = Self::folder(&self.prefix);
        let result = DirBuilder::new().mode(0o700).create(&folder);
        result.with_context(|| format!("creating {}", folder.display()))
    }

    /// Makes and shows a namespace.
    ///
    /// # Errors
    /// `ip` refuses.
    pub(super) fn add_namespace(
        &mut self,
        console: &mut Console,
        name: &str,
    ) -> anyhow::Result<()> {
        // First noted, then made: what is interrupted in between must be removed, too.
        self.namespaces.push(name.to_owned());
        console.show(&format!("ip netns add {name}"))?;
        Ok(())
    }

    /// Names the namespace with the wire between the hosts.
    pub(super) fn wire(&self) -> String {
        format!("{}-wire", self.prefix)
    }

    /// Mounts the BPF file system, which containers and minimal systems may lack.
    ///
    /// # Errors
    /// No privilege, or a kernel without BPF.
    pub(super) fn mount_bpf_fs(&mut self, console: &mut Console) -> anyhow::Result<()> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("reading the mounts")?;
        let here = |line: &str| line.split(' ').skip(1).take(2).eq([BPF_FS, "bpf"]);
        if !mounts.lines().any(here) {
            self.mounted = true;
            console.show(&format!("mount -t bpf bpf {BPF_FS}"))?;
        }
        Ok(())
    }

    /// Removes everything and returns what is there nevertheless, running processes included.
    pub(super) fn clear(self) -> Vec<String> {
        let prefix = self.prefix.clone();
        drop(self);
        let mut left = Vec::new();
        for folder in [NAMESPACES, BPF_FS, FILES] {
            let names = fs::read_dir(folder).into_iter().flatten().flatten();
            let paths = names.map(|entry| entry.path());
            left.extend(
                paths
                    .filter(|path| is_ours(path, &prefix))
                    .map(|path| path.display().to_string()),
            );
        }
        left.extend(processes(&prefix));
        left
    }
}

/// Returns whether a name is one of ours: `dz-demo-12` is not if we are `dz-demo-1`.
fn is_ours(path: &Path, prefix: &str) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix(prefix))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Finds processes that have one of our names in their command lines.
fn processes(prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let mut parts = command.split([' ', '/']);
        if parts.any(|part| is_ours(Path::new(part), prefix)) {
            let pid = entry.file_name();
            found.push(format!("process {}: {command}", pid.to_string_lossy()));
        }
    }
    found
}

impl Drop for Stage {
    fn drop(&mut self) {
        for name in &self.namespaces {
            // It may not have been made; what remains is looked for afterwards. Of its own group:
            // a second Ctrl-C must not stop it half way.
            let deleted = Command::from(cmd!(sh(), "ip netns del {name}").ignore_stderr())
                .stdin(Stdio::null())
                .process_group(0)
                .status();
            if !deleted.is_ok_and(|status| status.success()) {
                let _ = fs::remove_file(Path::new(NAMESPACES).join(name));
            }
        }
        let pins = fs::read_dir(BPF_FS).into_iter().flatten().flatten();
        for entry in pins.filter(|entry| is_ours(&entry.path(), &self.prefix)) {
            let _ = fs::remove_dir_all(entry.path());
        }
        let _ = fs::remove_dir_all(Self::folder(&self.prefix));
        if self.mounted {
            let _ = shell::answer(cmd!(sh(), "umount {BPF_FS}"));
        }
    }
}
