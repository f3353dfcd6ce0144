//! The compiled object: its maps, and its programs, each of which is loaded when it is first needed.

use std::path::Path;

use aya::maps::Map;
use aya::programs::{Program, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use dz_common::map::name;

use super::causes::{chain, os_error};
use super::names::MAPS;
use super::readable::readable;
use super::signals::undisturbed;
use crate::error::{ExitCode, FailWith, Failure};

/// The kernel programs; build.rs has checked that they are those of the sources.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("DZ_EBPF_OBJECT_PATH"));

/// The object, with its maps made or taken over. Dropping it leaves what is pinned.
pub(super) struct Object(Ebpf);

/// A program of the object that the kernel has loaded.
pub(super) enum Loaded<'a> {
    /// A program for TC.
    Tc(&'a mut SchedClassifier),
    /// A program for XDP.
    Xdp(&'a mut Xdp),
}

impl Object {
    /// Makes the maps and pins them, or opens those that are pinned. `slots`: how many deadlines there are.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`] if the kernel refuses a map.
    pub(super) fn new(pin_dir: &Path, slots: u32) -> Result<Self, Failure> {
        let paths = MAPS.map(|name| (name, pin_dir.join(name)));
        let mut loader = EbpfLoader::new();
        for (name, path) in &paths {
            loader.map_pin_path(name, path);
        }
        for name in [name::DEADLINES, name::SESSIONS, name::PEERS] {
            loader.map_max_entries(name, slots);
        }
        let ebpf = loader.load(OBJECT).map_err(|error| refused(&error))?;
        Ok(Self(ebpf))
    }

    /// Finds a program, and has the kernel load it if it has not yet.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`] if the kernel refuses it; [`ExitCode::Failure`] if there is no such program.
    pub(super) fn program(&mut self, name: &str) -> Result<Loaded<'_>, Failure> {
        let refused = |error| refused_program(name, &error);
        match self.0.program_mut(name) {
            Some(Program::SchedClassifier(program)) => {
                if program.fd().is_err() {
                    undisturbed(|| program.load()).map_err(refused)?;
                }
                Ok(Loaded::Tc(program))
            }
            Some(Program::Xdp(program)) => {
                if program.fd().is_err() {
                    undisturbed(|| program.load()).map_err(refused)?;
                }
                Ok(Loaded::Xdp(program))
            }
            Some(_) => Err(ProgramError::UnexpectedProgramType)
                .fail_with(ExitCode::Failure, || format!("program {name}")),
            None => Err(Failure::new(
                ExitCode::Failure,
                format!("the BPF object has no program {name}"),
            )),
        }
    }

    /// Finds a map that stays here.
    pub(super) fn map(&self, name: &str) -> Option<&Map> {
        self.0.map(name)
    }

    /// Hands a map over. It must stay open: a program that is loaded later refers to every map by its
    /// file descriptor.
    pub(super) fn take_map(&mut self, name: &str) -> Option<Map> {
        self.0.take_map(name)
    }

    /// Passes on what the programs log, at debug level. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the programs log nothing at all, which only an unusual object does.
    pub(super) fn forward_logs(&mut self) -> Result<(), Failure> {
        // The programs log through the `log` crate, which tracing-subscriber listens to.
        let logger = EbpfLogger::init(&mut self.0)
            .fail_with(ExitCode::Failure, || "log of the kernel programs")?;
        let mut logger =
            readable(logger).fail_with(ExitCode::Failure, || "log of the kernel programs")?;
        tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        });
        Ok(())
    }
}

fn refused(error: &EbpfError) -> Failure {
    let advice = match os_error(error) {
        Some(libc::ENOMEM) => "; lower --max-sessions, or let the agent have more memory",
        _ => "",
    };
    Failure::new(
        ExitCode::Kernel,
        format!("the kernel refuses the BPF maps: {}{advice}", chain(error)),
    )
}

fn refused_program(name: &str, error: &ProgramError) -> Failure {
    let text = match error {
        // The first line names the reason; the verifier's log is for --log-level debug.
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            tracing::debug!(program = name, %verifier_log, "verifier");
            let log = verifier_log.to_string();
            // Behind the reason come statistics.
            let statistics = ["verification time", "stack depth", "processed "];
            let reason = log.lines().rev().find(|line| {
                !line.trim().is_empty() && !statistics.iter().any(|start| line.starts_with(start))
            });
            format!("{io_error}: {}", reason.unwrap_or_default())
        }
        error => chain(error),
    };
    Failure::new(
        ExitCode::Kernel,
        format!("the kernel refuses program {name}: {text}"),
    )
}
