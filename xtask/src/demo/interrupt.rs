//! Ctrl-C and the like: noted by a flag that every wait looks at, so that everything is cleaned up
//! by the ordinary way out.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The flag: 0, or the signal that came.
#[derive(Debug)]
pub(super) struct Interrupt(Arc<AtomicUsize>);

/// The demo was told to stop.
#[derive(Debug)]
pub(super) struct Interrupted {
    signal: usize,
}

impl Interrupt {
    /// Takes the signals over.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn install() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicUsize::new(0));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            let value = usize::try_from(signal)?;
            signal_hook::flag::register_usize(signal, Arc::clone(&flag), value)
                .context("taking over signals")?;
        }
        Ok(Self(flag))
    }

    /// # Errors
    /// [`Interrupted`].
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Interrupted { signal }),
        }
    }
}

impl Interrupted {
    /// 128 and the signal, as shells have it: 130 for Ctrl-C.
    pub(super) fn exit_code(&self) -> ExitCode {
        u8::try_from(128 + self.signal).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by signal {}", self.signal)
    }
}

impl std::error::Error for Interrupted {}
