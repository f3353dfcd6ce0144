//! Without privilege, kernel features, or an interface that can be served.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_agent::datapath::MAPS;
use dz_tests::agent::{Agent, Home, program};
use dz_tests::bed::INTERFACE;
use dz_tests::harness::{Outcome, Requirement, Test};
use dz_tests::memory_group::MemoryGroup;
use dz_tests::netns::Netns;
use dz_tests::seccomp::{self, BpfCommand};
use dz_tests::tun::Tun;
use dz_tests::wait::eventually;
use tempfile::TempDir;

use crate::scene::{NEEDS, agent_run, agent_run_by, nothing_left, refused};

const ON_TUN: [&str; 2] = ["--interface", INTERFACE];

pub(super) fn tests() -> Vec<Test> {
    let with = |tool| [NEEDS[0], NEEDS[1], Requirement::Tool(tool)];
    let setpriv = with("setpriv");
    vec![
        Test::new("start::unprivileged_user", &setpriv, unprivileged_user),
        Test::new(
            "start::root_without_capabilities",
            &setpriv,
            no_capabilities,
        ),
        Test::new("start::no_realtime", &setpriv, no_realtime),
        Test::new("start::version_says_nothing", &with("setarch"), version),
        Test::new("start::few_open_files", &with("prlimit"), few_open_files),
        Test::new("start::low_soft_limit", &with("prlimit"), low_soft_limit),
        Test::new("start::time_namespace", &with("unshare"), time_namespace),
        Test::new("start::no_bpf", &NEEDS, no_bpf),
        Test::new("start::no_memory_for_maps", &NEEDS, no_memory_for_maps),
        Test::new("start::no_memory_for_a_try", &NEEDS, || {
            let words = ["BPF hash maps", "Cannot allocate memory"];
            no_memory(BpfCommand::MapCreate, &words)
        }),
        Test::new("start::no_memory_for_a_program", &NEEDS, || {
            let words = ["TC classifier programs", "Cannot allocate memory"];
            no_memory(BpfCommand::ProgLoad, &words)
        }),
        Test::new("start::no_memory_for_a_query", &NEEDS, || {
            let words = ["trying TCX", "Cannot allocate memory"];
            no_memory(BpfCommand::ProgQuery, &words)
        }),
        Test::new("start::no_timers", &NEEDS, || {
            let words = ["detection timer 0", "lower --max-sessions"];
            no_memory(BpfCommand::ProgTestRun, &words)
        }),
        Test::new("start::xdp_on_layer_3", &NEEDS, || on_tun("xdp")),
        Test::new("start::generic_xdp_on_layer_3", &NEEDS, || {
            on_tun("xdp-generic")
        }),
        Test::new("start::loopback", &NEEDS, loopback),
        Test::new("start::contradiction", &NEEDS, contradiction),
    ]
}

/// A namespace with `doublezero0` in it.
struct Place {
    netns: Netns,
    _tun: Tun,
    home: Home,
}

impl Place {
    fn new(label: &str) -> Result<Self> {
        let netns = Netns::new(label)?;
        let tun = Tun::new(&netns, INTERFACE, &["169.254.7.0/31"])?;
        let home = Home::new()?;
        Ok(Self {
            netns,
            _tun: tun,
            home,
        })
    }

    fn refuses(&self, command: Command, code: i32, words: &[&str]) -> Result<()> {
        self.said(command, code, words).map(drop)
    }

    /// What it says as it is refused.
    fn said(&self, mut command: Command, code: i32, words: &[&str]) -> Result<String> {
        let said = refused(&self.ended(&mut command)?, code, words)?;
        nothing_left(&self.home, &self.netns)?;
        Ok(said)
    }

    /// Runs it to its end; an agent that starts after all is not waited for for ever.
    fn ended(&self, command: &mut Command) -> Result<Output> {
        use std::process::Stdio;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.netns.spawn(command)?;
        let ended = eventually(
            Duration::from_secs(30),
            "the end of a refused agent",
            || child.try_wait().ok().flatten(),
        );
        if let Err(error) = ended {
            child.kill()?;
            let output = child.wait_with_output()?;
            return Err(error.context(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(child.wait_with_output()?)
    }
}

/// The agent where everybody can run it: a build directory may lie below a private one.
fn public_program() -> Result<(TempDir, std::path::PathBuf)> {
    let directory = tempfile::tempdir()?;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open.clone())?;
    let copy = directory.path().join("dz-agent");
    // By another process: a child of this one may hold a copy of a file open for writing for a moment,
    // and what is open for writing cannot be run.
    let copied = Command::new("cp").arg(program()?).arg(&copy).status()?;
    ensure!(copied.success(), "copying the agent: {copied}");
    std::fs::set_permissions(&copy, open)?;
    Ok((directory, copy))
}

fn unprivileged_user() -> Result<()> {
    let place = Place::new("nobody")?;
    let (_directory, agent) = public_program()?;
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let command = agent_run_by(&nobody, &agent, &place.home, &ON_TUN)?;
    place.refuses(
        command,
        3,
        &["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF", "run as root"],
    )
}

fn no_capabilities() -> Result<()> {
    let place = Place::new("nocaps")?;
    let drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let command = agent_run_by(&drop, program()?, &place.home, &ON_TUN)?;
    place.refuses(command, 3, &["CAP_NET_ADMIN", "run as root"])
}

fn no_realtime() -> Result<()> {
    let place = Place::new("nort")?;
    let drop = [
        "setpriv",
        "--bounding-set=-sys_nice",
        "--inh-caps=-sys_nice",
    ];
    let arguments = [&ON_TUN[..], &["--realtime=on"]].concat();
    let command = agent_run_by(&drop, program()?, &place.home, &arguments)?;
    place.refuses(
        command,
        3,
        &["--realtime on", "real-time", "LimitRTPRIO=51"],
    )
}

/// What counts is what the kernel can do.
fn version() -> Result<()> {
    let place = Place::new("old")?;
    let agent = Agent::start_by(&["setarch", "--uname-2.6"], &place.netns, &ON_TUN)?;
    agent.cli(&["status"]).map(drop)
}

fn few_open_files() -> Result<()> {
    let place = Place::new("files")?;
    for limit in [12, 47, 200] {
        let wrapper = ["prlimit".to_owned(), format!("--nofile={limit}:{limit}")];
        let command = agent_run_by(&wrapper, program()?, &place.home, &ON_TUN)?;
        let words = ["RLIMIT_NOFILE", &limit.to_string(), "LimitNOFILE=260"];
        place.refuses(command, 3, &words)?;
    }
    Ok(())
}

/// Below the hard limit, the agent may have more.
fn low_soft_limit() -> Result<()> {
    let place = Place::new("soft")?;
    let wrapper = ["prlimit", "--nofile=47:1024"];
    let agent = Agent::start_by(&wrapper, &place.netns, &ON_TUN)?;
    agent.cli(&["status"]).map(drop)
}

/// Kernel programs have the host's clock in any time namespace, ahead of it or behind.
fn time_namespace() -> Result<()> {
    let place = Place::new("clock")?;
    for offset in ["86400", "-1"] {
        let wrapper = ["unshare", "--time", "--fork", "--monotonic", offset];
        let command = agent_run_by(&wrapper, program()?, &place.home, &ON_TUN)?;
        place.refuses(command, 1, &["time namespace", offset, "outside"])?;
    }
    Ok(())
}

fn no_bpf() -> Result<()> {
    let place = Place::new("nobpf")?;
    let mut command = agent_run(&place.home, &ON_TUN)?;
    seccomp::without_bpf(&mut command);
    place.refuses(command, 4, &["lacks", "CONFIG_BPF_SYSCALL"])
}

/// In a group of processes with less memory than the maps for so many sessions take.
fn no_memory_for_maps() -> Result<Outcome> {
    let Some(group) = MemoryGroup::new("dz-no-memory", 48 << 20)? else {
        return Ok(Outcome::Skip(
            "no group of processes to limit memory in".into(),
        ));
    };
    let place = Place::new("nomaps")?;
    let join = format!("echo $$ > {} && exec \"$@\"", group.members().display());
    let wrapper = ["sh", "-c", &join, "sh"];
    let arguments = ["--interface", INTERFACE, "--max-sessions", "131072"];
    let command = agent_run_by(&wrapper, program()?, &place.home, &arguments)?;
    let words = ["refuses the BPF maps", "lower --max-sessions"];
    let said = place.said(command, 4, &words)?;
    // Whichever comes too late, that of the programs' log among them: they are made in the order of a
    // hash table.
    let mut names = MAPS.into_iter().chain(["AYA_LOGS"]);
    let names_one = names.any(|name| said.contains(name));
    ensure!(names_one, "no map is named: {said}");
    Ok(Outcome::Passed)
}

/// What the kernel has no memory for at the start is missed then, not when a peer falls silent.
fn no_memory(refused: BpfCommand, words: &[&str]) -> Result<()> {
    let place = Place::new("nomemory")?;
    let mut command = agent_run(&place.home, &ON_TUN)?;
    seccomp::without_memory_for(&mut command, refused);
    place.refuses(command, 4, words)
}

fn on_tun(attach: &str) -> Result<()> {
    let place = Place::new("layer3")?;
    let command = agent_run(&place.home, &["--interface", INTERFACE, "--attach", attach])?;
    place.refuses(command, 5, &[INTERFACE, "layer-3", "--attach tc"])
}

fn loopback() -> Result<()> {
    let place = Place::new("loop")?;
    let command = agent_run(&place.home, &["--interface", "lo"])?;
    place.refuses(command, 5, &["interface lo", "loopback"])
}

fn contradiction() -> Result<()> {
    let place = Place::new("options")?;
    let arguments = ["--tx-interval", "10ms", "--interval-floor", "50ms"];
    let command = agent_run(&place.home, &arguments)?;
    place.refuses(command, 2, &["--tx-interval 10ms", "--interval-floor 50ms"])
}
