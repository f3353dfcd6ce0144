//! Writes to standard output, and warnings to standard error, for terminals.

use std::io::{ErrorKind, Write};

use anyhow::Context;

use crate::error::Failure;
use crate::printable::{one_line, printable};

/// Writes to standard output. Not `print!`, which panics when the reader has gone: `dz-agent sessions |
/// head` is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out
        .write_all(printable(text).as_bytes())
        .and_then(|()| out.flush())
    {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written.context("standard output")?),
    }
}

/// Writes a warning to standard error, in one line.
pub(crate) fn warn(text: &str) {
    eprintln!("dz-agent: warning: {}", one_line(text));
}
