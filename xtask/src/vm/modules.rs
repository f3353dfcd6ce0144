//! Puts kernel modules in the order in which they can be loaded. An unpacked package has no `modules.dep`: each module says
//! itself which others it depends on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use xshell::cmd;

use super::kernel::Kernel;
use crate::shell::sh;

/// A module's name and content, decompressed.
pub(crate) type Module = (String, Vec<u8>);

/// Reads the modules and those that they depend on, each once, none before one that it depends on. Those that are built
/// into the kernel are left out.
///
/// # Errors
/// The kernel has no such module, or it cannot be read.
pub(crate) fn in_order(kernel: &Kernel, names: &[&str]) -> anyhow::Result<Vec<Module>> {
    let builtin = fs::read_to_string(kernel.modules.join("modules.builtin"))?;
    let mut files = Vec::new();
    list(&kernel.modules.join("kernel"), &mut files)?;
    let mut search = Search {
        builtin: builtin.lines().filter_map(module_name).collect(),
        files,
        seen: BTreeSet::new(),
        found: Vec::new(),
    };
    for name in names {
        search
            .add(name)
            .with_context(|| format!("module {name} of kernel {}", kernel.release))?;
    }
    Ok(search.found)
}

struct Search {
    builtin: BTreeSet<String>,
    files: Vec<PathBuf>,
    seen: BTreeSet<String>,
    found: Vec<Module>,
}

impl Search {
    fn add(&mut self, name: &str) -> anyhow::Result<()> {
        if self.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let mut files = self.files.iter();
        let file = files
            .find(|file| module_name(&file.to_string_lossy()).as_deref() == Some(name))
            .with_context(|| format!("there is no {name}.ko"))?;
        let content = read(file).with_context(|| format!("reading {}", file.display()))?;
        for other in depends(&content)? {
            self.add(&other)?;
        }
        self.found.push((name.to_owned(), content));
        Ok(())
    }
}

/// Returns the name `ip_gre` of `kernel/net/ipv4/ip_gre.ko.xz`. Dashes and underscores are the same in these names.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return Ok(fs::read(file)?);
    }
    Ok(cmd!(sh(), "xz -dc {file}").output()?.stdout)
}

/// Reads the names of needed modules from the section `.modinfo`: strings that end with a zero, one of them `depends=a,b`.
fn depends(module: &[u8]) -> anyhow::Result<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let start = module
        .windows(KEY.len())
        .position(|window| window == KEY)
        .context("it does not say what it depends on")?;
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next();
    let value = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let names = value.split(',').filter(|name| !name.is_empty());
    Ok(names.map(|name| name.replace('-', "_")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_dependencies() {
        let name = module_name("kernel/net/ipv4/ip-gre.ko.xz");
        assert_eq!(name.as_deref(), Some("ip_gre"));
        assert_eq!(module_name("modules.order"), None);
        let module = b"ELF\0license=GPL\0depends=ip_tunnel,gre\0retpoline=Y\0";
        assert_eq!(depends(module).unwrap(), ["ip_tunnel", "gre"]);
        assert_eq!(depends(b"\0depends=\0").unwrap(), Vec::<String>::new());
        assert!(depends(b"nothing").is_err());
    }
}
