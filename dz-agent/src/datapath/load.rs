//! Loading the object into pinned maps, new or those of an agent that is gone.

use std::path::PathBuf;
use std::sync::Arc;

use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use dz_common::control::{OP_START_GROUP, Request};
use dz_common::counters::Counter;
use dz_common::map::{SLOTS_PER_GROUP, name};

use super::causes::{chain, os_error};
use super::clock::now_ns;
use super::kernel::kernel_at_least;
use super::layout::slots;
use super::maps::{MapReader, Maps};
use super::names::MAPS;
use super::programs::Runner;
use super::readable::readable;
use super::settings::Settings;
use super::signals::undisturbed;
use crate::error::{ExitCode, FailWith, Failure};

/// The kernel programs; build.rs has checked that they are those of the sources.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("DZ_EBPF_OBJECT_PATH"));

/// The loaded kernel part.
pub struct Datapath {
    /// Typed access to the maps.
    pub maps: Maps,
    /// For those who only look.
    pub reader: Arc<MapReader>,
    pub(super) ebpf: Ebpf,
    pub(super) runner: Runner,
    pub(super) pin_dir: PathBuf,
    /// Linux 6.6 and newer.
    pub(super) has_tcx: bool,
    slots: u32,
}

impl Datapath {
    /// Loads programs and maps and starts the detection timers. Nothing is attached yet.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`] if the kernel refuses a map, a program or a timer;
    /// [`ExitCode::Failure`] if the pinned maps are of another layout.
    pub fn load(settings: &Settings) -> Result<Self, Failure> {
        let pin_dir = &settings.pin_dir;
        let slots = slots(pin_dir, settings.max_sessions)?;
        let paths: Vec<_> = MAPS.iter().map(|name| (name, pin_dir.join(name))).collect();
        let mut loader = EbpfLoader::new();
        for (name, path) in &paths {
            loader.map_pin_path(name, path);
        }
        for name in [name::DEADLINES, name::SESSIONS, name::PEERS] {
            loader.map_max_entries(name, slots);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| refused(&error))?;
        for name in ["dz_transmit", "dz_control"] {
            load_classifier(&mut ebpf, name)?;
        }
        let maps = Maps::take(&mut ebpf, slots).fail_with(ExitCode::Kernel, || {
            format!("maps in {}", pin_dir.display())
        })?;
        let reader = MapReader::from_pins(pin_dir).fail_with(ExitCode::Kernel, || {
            format!("maps in {}", pin_dir.display())
        })?;
        let runner = Runner::new(&mut ebpf)?;
        let groups = slots.div_ceil(SLOTS_PER_GROUP);
        maps.set_config(settings.config(groups));
        maps.beat(now_ns());
        let datapath = Self {
            maps,
            reader: Arc::new(reader),
            ebpf,
            runner,
            pin_dir: pin_dir.clone(),
            has_tcx: kernel_at_least(6, 6),
            slots,
        };
        datapath.start_timers(groups)?;
        Ok(datapath)
    }

    /// Loads every ingress program, to be sure that the kernel takes them when an interface comes
    /// that needs one. The verifier takes some hundredths of a second for each, so those that are
    /// needed at once are loaded by [`Datapath::attach`], and the others only for this.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`] if the kernel refuses one.
    pub fn load_all(&mut self) -> Result<(), Failure> {
        for name in ["dz_tc_l3", "dz_tc_eth", "dz_gate_l3", "dz_gate_eth"] {
            load_classifier(&mut self.ebpf, name)?;
        }
        load_xdp(&mut self.ebpf).map(|_| ())
    }

    /// How many sessions there is room for.
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Passes on what the kernel programs log, at debug level. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the programs log nothing at all, which only an unusual object does.
    pub fn forward_logs(&mut self) -> Result<(), Failure> {
        // The programs log through the `log` crate, which tracing-subscriber listens to.
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf)
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

    /// A load whose timers do not start must fail: sessions would never be detected as Down.
    fn start_timers(&self, groups: u32) -> Result<(), Failure> {
        for index in 0..groups {
            let request = Request {
                op: OP_START_GROUP,
                index,
                ..Request::NONE
            };
            let why = match self.runner.control(&request) {
                Ok(Counter::ControlDone) => continue,
                Ok(exit) => exit.name().to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(Failure::new(
                ExitCode::Kernel,
                format!(
                    "detection timer {index} of {groups} does not start: {why}; lower \
                     --max-sessions, or let the agent have more memory"
                ),
            ));
        }
        Ok(())
    }
}

/// A classifier, loaded now if it is not yet.
pub(super) fn load_classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, Failure> {
    let program = classifier(ebpf, name)?;
    if program.fd().is_err() {
        undisturbed(|| program.load()).map_err(|error| refused_program(name, &error))?;
    }
    Ok(program)
}

/// The XDP program, loaded now if it is not yet.
pub(super) fn load_xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, Failure> {
    let program = xdp(ebpf)?;
    if program.fd().is_err() {
        undisturbed(|| program.load()).map_err(|error| refused_program("dz_xdp", &error))?;
    }
    Ok(program)
}

pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, Failure> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program
        .try_into()
        .fail_with(ExitCode::Failure, || format!("program {name}"))
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, Failure> {
    let program = ebpf
        .program_mut("dz_xdp")
        .ok_or_else(|| missing("dz_xdp"))?;
    program
        .try_into()
        .fail_with(ExitCode::Failure, || "program dz_xdp")
}

fn missing(name: &str) -> Failure {
    Failure::new(
        ExitCode::Failure,
        format!("the BPF object has no program {name}"),
    )
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
