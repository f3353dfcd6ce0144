//! Writes to standard output.

use std::io::{ErrorKind, Write};

use anyhow::Context;

use crate::error::Failure;

/// Writes to standard output. Not `print!`, which panics when the reader has gone: `dz-agent sessions |
/// head` is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written.context("standard output")?),
    }
}
