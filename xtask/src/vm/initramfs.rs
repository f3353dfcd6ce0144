//! Packs the guest's files into an archive that the kernel unpacks into memory.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use xshell::cmd;

use crate::shell::{self, sh};

/// An uncompressed cpio archive (`newc`, the kernel's `buffer-format.rst`): to decompress costs more
/// than to copy, above all in an emulated machine.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    names: BTreeSet<PathBuf>,
}

const FOLDER: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    /// Begins an empty archive.
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
            names: BTreeSet::new(),
        }
    }

    /// Adds a folder and those that it is in.
    pub(crate) fn folder(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        let folders: Vec<_> = path.ancestors().collect();
        for folder in folders.into_iter().rev() {
            self.entry(folder, FOLDER, &[]);
        }
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: impl AsRef<Path>, target: &str) {
        self.with_folder(path.as_ref(), LINK, target.as_bytes());
    }

    /// Adds a file that is not a program.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, content: &[u8]) {
        self.with_folder(path.as_ref(), FILE, content);
    }

    /// Adds an executable file that needs nothing else, such as a script.
    pub(crate) fn script(&mut self, path: impl AsRef<Path>, content: &str) {
        self.with_folder(path.as_ref(), PROGRAM, content.as_bytes());
    }

    /// Adds a folder of this machine with the files in it, at the same place. A folder that is not
    /// there is left out.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn copy_folder(&mut self, folder: &Path) -> anyhow::Result<()> {
        let Ok(entries) = fs::read_dir(folder) else {
            return Ok(());
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                self.copy_folder(&path)?;
            } else {
                self.file(&path, &fs::read(&path)?);
            }
        }
        Ok(())
    }

    /// Adds a program of this machine without its debugging information, and the libraries that it
    /// is linked with.
    ///
    /// # Errors
    /// It cannot be read or stripped, or a library is missing.
    pub(crate) fn program(&mut self, path: impl AsRef<Path>, file: &Path) -> anyhow::Result<()> {
        if self.names.contains(path.as_ref()) {
            return Ok(());
        }
        let content = stripped(file).with_context(|| format!("stripping {}", file.display()))?;
        self.with_folder(path.as_ref(), PROGRAM, &content);
        for library in libraries(file)? {
            if !self.names.contains(&library) {
                let content = fs::read(&library)
                    .with_context(|| format!("{}, for {}", library.display(), file.display()))?;
                self.with_folder(&library, PROGRAM, &content);
            }
        }
        Ok(())
    }

    /// Writes the archive to a file.
    ///
    /// # Errors
    /// As of the file.
    pub(crate) fn write(mut self, file: &Path) -> anyhow::Result<()> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        let mut output =
            fs::File::create(file).with_context(|| format!("creating {}", file.display()))?;
        output.write_all(&self.bytes)?;
        Ok(())
    }

    fn with_folder(&mut self, path: &Path, mode: u32, content: &[u8]) {
        if let Some(folder) = path.parent() {
            self.folder(folder);
        }
        self.entry(path, mode, content);
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let relative = path.strip_prefix("/").unwrap_or(path);
        if relative.as_os_str().is_empty() || !self.names.insert(path.to_path_buf()) {
            return;
        }
        let name = relative.to_string_lossy();
        self.inode += 1;
        let name_size = name.len() + 1;
        // Magic, inode, mode, user, group, links, time, size, device (2), special device (2),
        // size of the name, checksum.
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            self.inode,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Reads a program without its debugging information: a test program has ten times its size in it.
fn stripped(file: &Path) -> anyhow::Result<Vec<u8>> {
    if shell::find_program("strip").is_none() {
        return Ok(fs::read(file)?);
    }
    let copy = tempfile::NamedTempFile::new()?;
    let stripped = copy.path();
    cmd!(sh(), "strip --strip-debug -o {stripped} {file}")
        .quiet()
        .run()?;
    Ok(fs::read(stripped)?)
}

/// Lists the dynamic linker and the libraries of a program; none if it is linked statically or a script.
fn libraries(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = cmd!(sh(), "ldd {file}").ignore_status().output()?;
    if !output.status.success() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        !text.contains("not found"),
        "{} lacks a library:\n{text}",
        file.display()
    );
    Ok(text.lines().filter_map(library).collect())
}

/// Finds the path in `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library(line: &str) -> Option<PathBuf> {
    let line = line.trim();
    let path = line.split_once(" => ").map_or(line, |(_, path)| path);
    let path = path.split(" (").next()?;
    path.starts_with('/').then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_what_cpio_reads() {
        let mut archive = Archive::new();
        archive.script("/bin/hello", "#!/bin/sh\n");
        archive.link("/bin/hi", "hello");
        archive.file("/bin/hello", b"a second file of that name is left out");
        let file = tempfile::NamedTempFile::new().unwrap();
        archive.write(file.path()).unwrap();
        let bytes = fs::read(file.path()).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches("070701").count(), 4, "bin, two files, the end");
        // The header is 110 bytes, the name of 4 with its zero ends at 114: two bytes of padding.
        assert_eq!(&text[110..116], "bin\0\0\0");
        assert!(text[116..].starts_with("07070100000002000081ed"));
        assert_eq!(text.len() % 4, 0);
        assert!(text.contains("TRAILER!!!"));
    }

    #[test]
    fn reads_what_ldd_prints() {
        let found = |line| library(line).map(|path| path.display().to_string());
        let linker = found("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)");
        assert_eq!(linker.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        let libc = found("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)");
        assert_eq!(libc.as_deref(), Some("/lib/x86_64-linux-gnu/libc.so.6"));
        assert_eq!(found("\tlinux-vdso.so.1 (0x00007ffd)"), None);
    }
}
