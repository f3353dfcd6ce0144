//! The end-to-end tests, in a machine: their results are results like this machine's.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::files::guest_files;
use super::guest::{Job, Stream};
use super::initramfs::Archive;
use super::kernel::{Kernel, Version};
use super::left_out::{self, LeftOut};
use super::machine::{self, Event, Time, tail};
use super::quick;
use crate::test_suite::machine as tools;
use crate::test_suite::programs::{Program, Programs};
use crate::test_suite::report::{Report, Results};

/// The package of these tests.
pub(crate) const PACKAGE: &str = "dz-tests";
/// For one program: what hangs is killed and has failed. Each of its tests has a deadline of its own, 400 s for
/// most and 1,200 s at most; this is longer, so that the program can say which.
const DEADLINE: Duration = Duration::from_secs(1_500);
const AGENT: &str = "/agent/dz-agent";
const AGENT_WITH_FAULTS: &str = "/agent/dz-agent-faults";
/// The folder of the test programs, and their package's.
const TESTS: &str = "/tests";

/// How many frames `differential` generates: a tenth of what it does outside of machines.
const FRAMES: &str = "12000";

/// What to run.
pub(crate) enum Wanted<'a> {
    /// Everything but what is [`left_out`].
    WhatApplies,
    /// What is worth its time where that is short.
    Quick,
    /// What was asked for, with these arguments.
    Groups {
        /// For every test program.
        args: &'a [OsString],
    },
}

impl Wanted<'_> {
    fn args(&self, test: &Program, kernel: Version) -> Vec<OsString> {
        match self {
            Self::WhatApplies => Vec::new(),
            Self::Quick => {
                let part = quick::part_of(group(test), kernel).filter(|part| !part.is_empty());
                part.map(OsString::from).into_iter().collect()
            }
            Self::Groups { args } => args.to_vec(),
        }
    }

    fn includes(&self, test: &Program, kernel: Version) -> bool {
        let wanted = match self {
            Self::WhatApplies => !left_out::is_whole(group(test)),
            Self::Quick => quick::part_of(group(test), kernel).is_some(),
            Self::Groups { .. } => true,
        };
        test.end_to_end && wanted
    }
}

/// Runs the test programs on a kernel and adds their results.
///
/// # Errors
/// The machine cannot be made or started. One that dies is a failed test.
pub(crate) fn run(
    kernel: &Kernel,
    programs: &Programs,
    wanted: &Wanted<'_>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let tests = programs.tests.iter();
    let tests: Vec<_> = tests
        .filter(|test| wanted.includes(test, kernel.version))
        .collect();
    ensure!(
        !tests.is_empty(),
        "none of these groups runs in a machine: only those of {PACKAGE} do"
    );
    let mut jobs = Vec::new();
    for test in &tests {
        let left_out = match wanted {
            Wanted::WhatApplies => left_out::of(group(test), test)?,
            Wanted::Quick | Wanted::Groups { .. } => Vec::new(),
        };
        jobs.push(job(test, &left_out, &wanted.args(test, kernel.version)));
    }
    let names: Vec<_> = tests.iter().map(|test| name(kernel, test)).collect();
    println!("\n######## Linux {}", kernel.release);
    let start = Instant::now();
    let mut follow = Follow {
        names: &names,
        report,
        results: None,
        ran: 0,
        started: start,
        failed: false,
    };
    let files = files(programs, &tests)?;
    let ended = machine::run(kernel, Time::Here, files, &jobs, |event| {
        follow.event(event)
    })?;
    let failed = follow.end(ended.cut_off.as_deref());
    if failed {
        println!(
            "---- the kernel's log, its end ----\n{}",
            tail(&ended.console, 60)
        );
    }
    println!(
        "######## Linux {}: {} s",
        kernel.release,
        start.elapsed().as_secs()
    );
    Ok(())
}

/// `6.1 gate` of `dz-tests gate`.
fn name(kernel: &Kernel, test: &Program) -> String {
    format!("{} {}", kernel.version.name(), group(test))
}

fn group(test: &Program) -> &str {
    test.name.rsplit(' ').next().unwrap_or(&test.name)
}

fn job(test: &Program, left_out: &[LeftOut], args: &[OsString]) -> Job {
    let mut job = Job::new(&format!("{TESTS}/{}", group(test)), DEADLINE)
        .folder(TESTS)
        .env("CARGO_MANIFEST_DIR", TESTS)
        .env("DZ_AGENT", AGENT)
        .env("DZ_AGENT_WITH_FAULTS", AGENT_WITH_FAULTS)
        .env("DZ_TEST_TUNNEL", "gre")
        .env("DZ_TEST_RIGHTS", test.rights)
        .arg("--test-threads=2");
    // The variable means seeds to `memory`.
    if group(test) == "differential" {
        job = job.env("DZ_COUNT", FRAMES);
    }
    for LeftOut { tests, .. } in left_out {
        job = job.arg("--skip").arg(*tests);
    }
    for arg in args {
        job = job.arg(arg.to_string_lossy());
    }
    job
}

fn files(programs: &Programs, tests: &[&Program]) -> anyhow::Result<Archive> {
    let mut files = guest_files(&tools::guest_programs())?;
    files.program(AGENT, &programs.agent)?;
    files.program(AGENT_WITH_FAULTS, &programs.agent_with_faults)?;
    for test in tests {
        files.program(format!("{TESTS}/{}", group(test)), &test.executable)?;
    }
    Ok(files)
}

/// Turns what a machine says into results.
struct Follow<'a> {
    names: &'a [String],
    report: &'a mut Report,
    /// Of the program that runs.
    results: Option<Results>,
    /// How many programs have ended.
    ran: usize,
    started: Instant,
    failed: bool,
}

impl Follow<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Begin(job) => {
                println!("\n==== {}", self.names[job]);
                self.results = Some(Results::new(&self.names[job]));
                self.started = Instant::now();
            }
            Event::Text(Stream::Error, text) => eprintln!("{text}"),
            Event::Text(Stream::Output, text) => {
                println!("{text}");
                if let Some(results) = &mut self.results {
                    results.line(text);
                }
            }
            Event::End(job, code) => {
                println!(
                    "{} ended after {} s",
                    self.names[job],
                    self.started.elapsed().as_secs()
                );
                let ended = match code {
                    0 => Ok(()),
                    137 => Err(format!("killed, as after {} s", DEADLINE.as_secs())),
                    code => Err(format!("exit status {code}")),
                };
                if let Some(results) = self.results.take() {
                    results.end(ended, self.report);
                }
                self.ran = job + 1;
                self.failed |= code != 0;
            }
        }
    }

    /// A machine that is cut off fails the program that runs and those that have not. Returns
    /// whether anything has failed.
    fn end(mut self, cut_off: Option<&str>) -> bool {
        let Some(why) = cut_off else {
            return self.failed;
        };
        println!("{why}");
        if let Some(results) = self.results.take() {
            results.end(Err(why.to_owned()), self.report);
            self.ran += 1;
        }
        for name in &self.names[self.ran..] {
            Results::new(name).end(Err(format!("did not run: {why}")), self.report);
        }
        true
    }
}
