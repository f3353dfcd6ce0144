//! Builds the test programs, and the agent that they start.

use std::path::PathBuf;

use anyhow::{Context, bail};
use cargo_metadata::{Artifact, Message, Metadata, MetadataCommand, Package, TargetKind};
use xshell::{Cmd, cmd};

use crate::shell::{self, sh};

/// The package of the privileged end-to-end tests.
const END_TO_END: &str = "dz-tests";
/// The group of the tests in documentation comments.
const DOCUMENTATION: &str = "doc";
/// The groups about the transaction, last and in this order: the first that fails says most.
const TRANSACTION: [&str; 8] = [
    "incident",
    "crash",
    "observer",
    "gate",
    "netlink",
    "restart",
    "stop",
    "bystanders",
];

/// The programs that were built.
pub(crate) struct Programs {
    /// The agent's binary.
    pub(crate) agent: PathBuf,
    /// The same with hooks that make netlink fail, for the tests that need them.
    pub(crate) agent_with_faults: PathBuf,
    /// In the order in which they run: what is cheap first.
    pub(crate) tests: Vec<Program>,
    /// Whether tests in documentation comments are to run.
    pub(crate) documentation: bool,
}

/// The groups that run a second time, with the rights of the unit in `dist`.
const WITH_RIGHTS_OF_THE_UNIT: [&str; 1] = ["restart"];

/// One test program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// For people: package and target.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// Where it runs: its package's folder, as under `cargo test`.
    pub(crate) folder: PathBuf,
    /// Whether it needs network namespaces, and few neighbours.
    pub(crate) end_to_end: bool,
    /// The rights of the agents that it starts (`DZ_TEST_RIGHTS`).
    pub(crate) rights: &'static str,
}

impl Program {
    /// Makes up a program that stands for `cargo test --doc`.
    pub(crate) fn documentation() -> Self {
        Self {
            name: DOCUMENTATION.to_owned(),
            executable: PathBuf::new(),
            folder: PathBuf::new(),
            end_to_end: false,
            rights: "root",
        }
    }

    /// Returns the same program to be run with the rights of the unit, if its group runs twice.
    fn again(&self) -> Option<Self> {
        let (package, group) = self.name.rsplit_once(' ')?;
        WITH_RIGHTS_OF_THE_UNIT.contains(&group).then(|| Self {
            name: format!("{package} (rights of the unit) {group}"),
            rights: "unit",
            ..self.clone()
        })
    }
}

impl Programs {
    /// Builds the agent and the test programs of the groups; of all when none is named.
    ///
    /// # Errors
    /// A group that does not exist, or something that does not compile.
    pub(crate) fn build(groups: &[String]) -> anyhow::Result<Self> {
        let metadata = MetadataCommand::new()
            .current_dir(shell::root())
            .no_deps()
            .exec()?;
        check_groups(groups, &metadata)?;
        let agent = build_agent()?;
        let agent_with_faults = build_agent_with_faults()?;
        let mut tests = Vec::new();
        // Always with the features of the whole workspace, lest every group compiles everything
        // anew.
        let cargo = shell::cargo();
        let mut command = cmd!(sh(), "{cargo} test --no-run --workspace --all-features");
        let only_files = groups.iter().all(|group| {
            metadata
                .workspace_packages()
                .iter()
                .all(|p| p.name != *group)
        });
        if only_files {
            for group in groups.iter().filter(|group| *group != DOCUMENTATION) {
                command = command.args(["--test", group]);
            }
        }
        for artifact in artifacts(command)? {
            let package = metadata
                .workspace_packages()
                .into_iter()
                .find(|package| package.id == artifact.package_id);
            if let Some(package) = package {
                tests.extend(program(artifact, package, groups));
            }
        }
        let again: Vec<_> = tests.iter().filter_map(Program::again).collect();
        tests.extend(again);
        tests.sort_by_key(|test| (test.end_to_end, rank(&test.name)));
        Ok(Self {
            agent,
            agent_with_faults,
            tests,
            documentation: groups.is_empty() || groups.iter().any(|g| g == DOCUMENTATION),
        })
    }
}

/// Builds the agent and returns its binary.
///
/// # Errors
/// It does not compile.
pub(crate) fn build_agent() -> anyhow::Result<PathBuf> {
    build_binary(&["--bin", "dz-agent"])
}

/// Builds the agent with fault hooks and returns its binary.
///
/// # Errors
/// It does not compile.
pub(crate) fn build_agent_with_faults() -> anyhow::Result<PathBuf> {
    build_binary(&["--features", "faults", "--bin", "dz-agent-faults"])
}

/// Builds a program of the test harness, with the features of the whole workspace, as tests are built.
///
/// # Errors
/// It does not compile.
pub(crate) fn build_program(name: &str) -> anyhow::Result<PathBuf> {
    binary_of(&["--workspace", "--all-features", "--bin", name])
}

fn build_binary(arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let package = ["--package", "dz-agent"];
    binary_of(&[&package, arguments].concat())
}

fn binary_of(arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let cargo = shell::cargo();
    let command = cmd!(sh(), "{cargo} build {arguments...}");
    let binary = artifacts(command)?
        .into_iter()
        .filter(|artifact| artifact.target.is_bin())
        .find_map(|artifact| artifact.executable)
        .with_context(|| format!("cargo built no binary: {}", arguments.join(" ")))?;
    Ok(binary.into())
}

/// The programs that a bench needs, both without debug checks.
pub(crate) struct Bench {
    /// The agent's binary.
    pub(crate) agent: PathBuf,
    /// The program that measures it.
    pub(crate) bench: PathBuf,
}

/// Builds the agent as it is shipped, and the program that measures it.
///
/// # Errors
/// They do not compile.
pub(crate) fn build_bench() -> anyhow::Result<Bench> {
    let cargo = shell::cargo();
    let packages = ["--package", "dz-agent", "--package", END_TO_END];
    let binaries = ["--bin", "dz-agent", "--bin", "dz-bench"];
    let command = cmd!(sh(), "{cargo} build --release {packages...} {binaries...}");
    let built = artifacts(command)?;
    let binary = |name: &str| {
        let mut built = built.iter().filter(|artifact| artifact.target.is_bin());
        let artifact = built.find(|artifact| artifact.target.name == name);
        let executable = artifact.and_then(|artifact| artifact.executable.clone());
        let executable = executable.with_context(|| format!("cargo built no {name}"))?;
        anyhow::Ok(PathBuf::from(executable))
    };
    Ok(Bench {
        agent: binary("dz-agent")?,
        bench: binary("dz-bench")?,
    })
}

/// Returns the place of a program in a run of everything.
fn rank(name: &str) -> usize {
    let group = name.rsplit(' ').next().unwrap_or(name);
    let place = TRANSACTION.iter().position(|known| *known == group);
    place.map_or(0, |place| place + 1)
}

/// Returns the test program that an artifact is, if it is one of the groups'.
fn program(artifact: Artifact, package: &Package, groups: &[String]) -> Option<Program> {
    let executable = artifact.executable.filter(|_| artifact.profile.test)?;
    let is_file = artifact.target.is_test();
    let wanted =
        |group: &String| package.name == *group || (is_file && artifact.target.name == *group);
    if !groups.is_empty() && !groups.iter().any(wanted) {
        return None;
    }
    let kind = match artifact.target.kind.first() {
        Some(TargetKind::Bin) => "binary",
        Some(TargetKind::Test) => &artifact.target.name,
        _ => "library",
    };
    Some(Program {
        name: format!("{} {kind}", package.name),
        executable: executable.into(),
        folder: package.manifest_path.parent()?.into(),
        end_to_end: is_file && package.name == END_TO_END,
        rights: "root",
    })
}

fn check_groups(groups: &[String], metadata: &Metadata) -> anyhow::Result<()> {
    let mut known = vec![DOCUMENTATION.to_owned()];
    for package in metadata.workspace_packages() {
        known.push(package.name.to_string());
        let files = package.targets.iter().filter(|target| target.is_test());
        known.extend(files.map(|target| target.name.clone()));
    }
    for group in groups {
        if !known.contains(group) {
            bail!(
                "there is no test group {group}; there are: {}",
                known.join(", ")
            );
        }
    }
    Ok(())
}

/// Runs cargo, which shows its progress and diagnostics meanwhile, and collects what it built.
fn artifacts(command: Cmd<'_>) -> anyhow::Result<Vec<Artifact>> {
    eprintln!("$ {command}");
    let command = command.arg("--message-format=json-render-diagnostics");
    let mut artifacts = Vec::new();
    for message in Message::parse_stream(command.read()?.as_bytes()) {
        if let Message::CompilerArtifact(artifact) = message? {
            artifacts.push(artifact);
        }
    }
    Ok(artifacts)
}
