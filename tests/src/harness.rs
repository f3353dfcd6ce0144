//! A list of named tests with what they need, run by libtest-mimic.
//!
//! A test that cannot run is reported as ignored, never as passed, and a line
//! `SKIPPED <name>: <reason>` on standard output says why. A test that hangs fails (`deadline.rs`).

mod deadline;

use std::cell::RefCell;
use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::tun::Kind;
use deadline::{DEADLINE, Ended, Place, Progress};

/// What a test needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// To be root: namespaces, netlink, BPF.
    Root,
    /// A program on the path.
    Tool(&'static str),
    /// What [`crate::tun::Tun`] is made of: /dev/net/tun, and GRE if the environment asks for it.
    Tun,
    /// A kind of link that this kernel can create, as `ip link add type` names it.
    LinkKind(&'static str),
    /// A kernel of at least this version.
    Kernel(u32, u32),
}

/// How a test ended that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran, and everything held.
    Passed,
    /// It could not run, with the reason.
    Skip(String),
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Passed
    }
}

type Runner = Box<dyn FnOnce() -> anyhow::Result<Outcome> + Send>;

/// A named test.
pub struct Test {
    name: String,
    requirements: Vec<Requirement>,
    within: Duration,
    run: Runner,
}

impl Test {
    /// A test that returns `anyhow::Result<()>` or `anyhow::Result<Outcome>`.
    pub fn new<T: Into<Outcome>>(
        name: impl Into<String>,
        requirements: &[Requirement],
        run: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            requirements: requirements.to_vec(),
            within: DEADLINE,
            run: Box::new(move || run().map(Into::into)),
        }
    }

    /// With a deadline of its own, at least ten times what it takes: without one it has that of most.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.within = deadline;
        self
    }

    fn into_trial(self, progress: &Arc<Progress>) -> Trial {
        let Self {
            name,
            requirements,
            within,
            run,
        } = self;
        let place = progress.add(&name, within);
        Trial::ignorable_test(name.clone(), move || {
            Ok(match follow(&place, &requirements, run)? {
                Outcome::Passed => Completion::Completed,
                Outcome::Skip(reason) => {
                    report_skipped(&name, &reason);
                    Completion::ignored_with(reason)
                }
            })
        })
    }
}

fn follow(place: &Place, requirements: &[Requirement], run: Runner) -> Result<Outcome, Failed> {
    place.begin();
    let mut requirements = requirements.iter();
    let result = match requirements.find_map(|requirement| requirement.missing()) {
        Some(reason) => Ok(Outcome::Skip(reason)),
        None => run_with_notes(run),
    };
    place.end(match &result {
        Ok(Outcome::Passed) => Ended::Passed,
        Ok(Outcome::Skip(_)) => Ended::Skipped,
        Err(failed) => Ended::Failed(failed.message().unwrap_or_default()),
    });
    result
}

impl fmt::Debug for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Test")
            .field("name", &self.name)
            .field("requirements", &self.requirements)
            .finish_non_exhaustive()
    }
}

/// Runs the tests as the command line asks (as `cargo test -- …` does).
pub fn run(tests: Vec<Test>) -> ExitCode {
    let arguments = Arguments::from_args();
    crate::netns::remove_leftovers();
    crate::bpffs::remove_leftovers();
    let progress = Arc::new(Progress::default());
    let trials = tests.into_iter().map(|test| test.into_trial(&progress));
    let trials = trials.collect();
    if let Err(error) = progress.watch() {
        eprintln!("no deadlines: {error:#}");
        return ExitCode::FAILURE;
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(slowest) = progress.slowest() {
        let _ = writeln!(std::io::stdout(), "{slowest}");
    }
    conclusion.exit_code()
}

thread_local! {
    static NOTES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Leaves a note (a log, a dump) that is printed with the running test's failure, if it fails.
/// To be called on the test's own thread.
pub fn note(title: &str, text: &str) {
    NOTES.with_borrow_mut(|notes| notes.push(format!("---- {title} ----\n{text}")));
}

/// Forgets the running test's notes: for one of many rounds, whose earlier ones went well.
pub fn forget_notes() {
    NOTES.take();
}

fn run_with_notes(run: Runner) -> Result<Outcome, Failed> {
    NOTES.take();
    let result = catch_unwind(AssertUnwindSafe(run));
    let notes = NOTES.take().join("\n");
    let message = match result {
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("panicked: {}", text.unwrap_or("(no message)"))
        }
    };
    Err(format!("{message}\n{notes}").into())
}

fn report_skipped(name: &str, reason: &str) {
    let reason = reason.replace('\n', " ");
    // One write, so that lines of tests that run side by side do not mix. Not `println!`: a closed
    // standard output is no reason to fail a test.
    let line = format!("\nSKIPPED {name}: {reason}\n");
    let _ = std::io::stdout().write_all(line.as_bytes());
}

impl Requirement {
    /// Why it is not met, if it is not.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "not root".to_owned()),
            Self::Tool(name) => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
                (!found).then(|| format!("the program {name} is not installed"))
            }
            Self::Tun => match Kind::wanted() {
                _ if !Path::new("/dev/net/tun").exists() => Some("no /dev/net/tun".to_owned()),
                Ok(Kind::Gre) => Self::LinkKind("gre").missing(),
                // Something else is for the device to refuse: the test fails.
                Ok(Kind::Tun) | Err(_) => None,
            },
            Self::LinkKind(kind) => link_kind_missing(kind),
            Self::Kernel(major, minor) => {
                let release = nix::sys::utsname::uname().map(|name| name.release().to_owned());
                let release = release.unwrap_or_default().to_string_lossy().into_owned();
                let has = kernel_version(&release)?;
                (has < (major, minor))
                    .then(|| format!("kernel {release} is older than {major}.{minor}"))
            }
        }
    }
}

/// Tries to create one, in a namespace that is thrown away.
fn link_kind_missing(kind: &str) -> Option<String> {
    let attempt = || -> anyhow::Result<bool> {
        let netns = crate::netns::Netns::new("probe")?;
        let mut command = Command::new("ip");
        command.args(["link", "add", "probe0"]);
        if ["vlan", "macvlan"].contains(&kind) {
            netns.ip("link add probe1 type veth peer name probe2")?;
            command.args(["link", "probe1"]);
        }
        command.args(["type", kind]);
        // What it does not come without, or would be the kernel's fallback device without.
        match kind {
            "vlan" => command.args(["id", "7"]),
            "gre" => command.args(["local", "192.0.2.1", "remote", "192.0.2.2"]),
            "vrf" => command.args(["table", "10"]),
            "ip6gre" => command.args(["local", "2001:db8::1", "remote", "2001:db8::2"]),
            _ => &mut command,
        };
        Ok(netns.output(&mut command)?.status.success())
    };
    match attempt() {
        Ok(true) => None,
        Ok(false) => Some(format!("this kernel cannot create links of kind {kind}")),
        Err(error) => Some(format!(
            "cannot tell whether the kernel has links of kind {kind}: {error:#}"
        )),
    }
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kernel_versions() {
        assert_eq!(kernel_version("6.1.0-28-cloud-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("6.18.44"), Some((6, 18)));
        assert_eq!(kernel_version("unknown"), None);
    }

    #[test]
    fn names_a_missing_tool() {
        let missing = Requirement::Tool("no-such-program-here").missing();
        assert_eq!(
            missing.as_deref(),
            Some("the program no-such-program-here is not installed")
        );
        assert_eq!(Requirement::Tool("sh").missing(), None);
    }

    #[test]
    fn a_failure_carries_its_notes() {
        let failed = run_with_notes(Box::new(|| {
            note("log", "line one");
            anyhow::bail!("it broke")
        }));
        let message = failed.expect_err("it failed");
        let message = message.message().unwrap_or_default();
        assert!(
            message.contains("it broke") && message.contains("line one"),
            "{message}"
        );
    }
}
