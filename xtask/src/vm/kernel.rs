//! Gets kernels to boot: Debian's cloud kernels, downloaded with apt, unpacked, never installed, and kept
//! under `target/vm`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use xshell::cmd;

use crate::apt;
use crate::shell::{self, sh};

/// Which kernel, by the name it has on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    /// Debian 12's own: TC by clsact.
    #[value(name = "6.1")]
    V6_1,
    /// The one of Debian 12's backports and updates, and of Debian 13: TCX.
    #[value(name = "6.12")]
    V6_12,
}

impl Version {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// Returns its name as people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Returns packages that depend on the newest build of it, best first. The version of `linux-image-cloud-amd64` depends
    /// on the release of Debian: only a dependency of this version is taken.
    fn meta_packages(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 => &["linux-image-6.1-cloud-amd64", "linux-image-cloud-amd64"],
            Self::V6_12 => &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"],
        }
    }

    /// Returns whether a package is a build of it.
    fn is_build(self, package: &str) -> bool {
        let rest = package.strip_prefix("linux-image-");
        let rest = rest.and_then(|rest| rest.strip_prefix(self.name()));
        rest.is_some_and(|rest| rest.starts_with('.') && rest.ends_with("-cloud-amd64"))
    }
}

/// An unpacked kernel package.
pub(crate) struct Kernel {
    pub(crate) version: Version,
    /// As in `uname -r`.
    pub(crate) release: String,
    /// The file that a machine boots.
    pub(crate) image: PathBuf,
    /// `modules.builtin` and the folder `kernel` with the modules.
    pub(crate) modules: PathBuf,
}

/// Gets the newest kernel of that version: the cached one if it is that, or if apt cannot say or fetch a
/// newer one.
///
/// # Errors
/// There is none in the cache and none can be had.
pub(crate) fn get(version: Version) -> anyhow::Result<Kernel> {
    let cache = shell::root().join("target/vm").join(version.name());
    let cached = newest(&cache);
    if apt::can_install() && cached.is_none() {
        apt::update();
    }
    let offered = offered(version);
    let folder = match (offered, cached) {
        (Some(offered), cached) if cached == Some(cache.join(&offered.1)) => cache.join(offered.1),
        (Some((package, name)), cached) => match (fetch(&package, &cache.join(&name)), cached) {
            (Ok(()), _) => cache.join(name),
            (Err(error), Some(cached)) => {
                println!("WARNING: {error:#}; the cached kernel is used");
                cached
            }
            (Err(error), None) => return Err(error).with_context(|| no_kernel(version)),
        },
        (None, Some(cached)) => cached,
        (None, None) => anyhow::bail!("{}: apt knows no such package", no_kernel(version)),
    };
    open(version, &folder)
}

fn no_kernel(version: Version) -> String {
    format!(
        "no kernel {0} to boot: on Debian 12, with network (and `apt-get update`), apt has a package \
         linux-image-{0}*-cloud-amd64; or copy target/vm/{0} from a machine where `cargo xtask vm` \
         has run",
        version.name()
    )
}

/// Finds the newest package that apt offers: its name, and the name of its folder in the cache.
fn offered(version: Version) -> Option<(String, String)> {
    for meta in version.meta_packages() {
        let depends = apt_cache("depends", meta).unwrap_or_default();
        let mut packages = depends
            .lines()
            .filter_map(|line| line.split(' ').next_back());
        let Some(package) = packages.find(|package| version.is_build(package)) else {
            continue;
        };
        let policy = apt_cache("policy", package).unwrap_or_default();
        let candidate = policy
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "));
        if let Some(candidate) = candidate.filter(|candidate| *candidate != "(none)") {
            return Some((package.to_owned(), format!("{package}_{candidate}")));
        }
    }
    None
}

fn apt_cache(subcommand: &str, package: &str) -> anyhow::Result<String> {
    shell::answer(cmd!(sh(), "apt-cache {subcommand} {package}").env("LC_ALL", "C"))
}

/// Finds the folder of the cache that was unpacked last.
fn newest(cache: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(cache).ok()?.flatten();
    folders
        .filter(|folder| !folder.file_name().to_string_lossy().ends_with(".part"))
        .max_by_key(|folder| folder.metadata().and_then(|data| data.modified()).ok())
        .map(|folder| folder.path())
}

/// Downloads a package and unpacks it. The folder appears when it is complete.
fn fetch(package: &str, folder: &Path) -> anyhow::Result<()> {
    let mut part = folder.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let _ = fs::remove_dir_all(&part); // of a run that was cut off
    fs::create_dir_all(&part)?;
    apt::download(package, &part)?;
    let mut files = fs::read_dir(&part)?.flatten().map(|entry| entry.path());
    let file = files
        .find(|path| path.extension().is_some_and(|name| name == "deb"))
        .context("apt-get download left no package")?;
    cmd!(sh(), "dpkg-deb -x {file} {part}").run()?;
    fs::remove_file(file)?;
    let _ = fs::remove_dir_all(folder);
    fs::rename(&part, folder).with_context(|| format!("naming {}", folder.display()))
}

fn open(version: Version, folder: &Path) -> anyhow::Result<Kernel> {
    let boot = folder.join("boot");
    let names = fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))?;
    let release = names
        .flatten()
        .find_map(|file| {
            let name = file.file_name().into_string().ok()?;
            Some(name.strip_prefix("vmlinuz-")?.to_owned())
        })
        .with_context(|| format!("no kernel in {}", boot.display()))?;
    // Newer packages have /usr/lib.
    let lib = ["lib/modules", "usr/lib/modules"].map(|lib| folder.join(lib).join(&release));
    let modules = lib.into_iter().find(|lib| lib.is_dir());
    let modules = modules.with_context(|| format!("no modules in {}", folder.display()))?;
    let image = boot.join(format!("vmlinuz-{release}"));
    ensure!(image.is_file(), "no file {}", image.display());
    Ok(Kernel {
        version,
        release,
        image,
        modules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_packages() {
        assert!(Version::V6_1.is_build("linux-image-6.1.0-56-cloud-amd64"));
        assert!(Version::V6_12.is_build("linux-image-6.12.117+deb12-cloud-amd64"));
        assert!(!Version::V6_1.is_build("linux-image-6.12.117+deb12-cloud-amd64"));
        assert!(!Version::V6_1.is_build("linux-image-6.1-cloud-amd64"));
        assert!(!Version::V6_12.is_build("linux-image-6.12.117+deb12-amd64"));
    }
}
