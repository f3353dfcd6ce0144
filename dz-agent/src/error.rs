//! A failure ends the process with one line, and with an exit code that scripts can rely on.

use std::fmt;
use std::process;

/// Exit codes. Stable: a number never changes its meaning.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Done.
    Ok = 0,
    /// Failed for a reason without a code of its own.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Not allowed: run as root, or grant what the message names.
    Privilege = 3,
    /// The kernel lacks a feature; the message names it.
    Kernel = 4,
    /// The interface cannot be served: its kind, or an attach mode that it cannot carry.
    Interface = 5,
    /// Something else holds the interface, pin directory or socket, most likely another agent.
    Busy = 6,
    /// No agent answers at the socket.
    Unreachable = 7,
    /// The agent refused the request; the message lists the faults.
    Refused = 8,
    /// `status`: a program is not where it should be, so that its interface is not served as said.
    NotInPlace = 9,
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// A failure that ends the process: what, where and what to do, in one line.
#[derive(Debug)]
pub struct Failure {
    /// The exit code of the process.
    pub code: ExitCode,
    /// The error and its causes.
    pub error: anyhow::Error,
}

impl Failure {
    /// Makes a failure with a code of its own. `what` reads `what: where: what to do`.
    pub fn new(
        code: ExitCode,
        what: impl fmt::Display + fmt::Debug + Send + Sync + 'static,
    ) -> Self {
        Self {
            code,
            error: anyhow::Error::msg(what),
        }
    }

    /// Puts `context` before the message and keeps the code.
    #[must_use]
    pub fn context(self, context: impl fmt::Display + Send + Sync + 'static) -> Self {
        Self {
            code: self.code,
            error: self.error.context(context),
        }
    }
}

/// Makes a failure of an error: one without a code of its own fails with [`ExitCode::Failure`].
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => Self {
                code: ExitCode::Failure,
                error,
            },
        }
    }
}

/// Writes the error and its causes in one line, whatever line breaks they contain.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:#}", self.error);
        let mut words = text.lines().map(str::trim).filter(|line| !line.is_empty());
        f.write_str(words.next().unwrap_or("unknown failure"))?;
        words.try_for_each(|line| write!(f, " {line}"))
    }
}

impl std::error::Error for Failure {}

/// Gives an error the exit code and the context that it lacks.
pub trait FailWith<T> {
    /// Fails with `code` and `context` before the error's own words.
    ///
    /// # Errors
    /// If `self` is one.
    fn fail_with<C>(self, code: ExitCode, context: impl FnOnce() -> C) -> Result<T, Failure>
    where
        C: fmt::Display + Send + Sync + 'static;
}

impl<T, E: Into<anyhow::Error>> FailWith<T> for Result<T, E> {
    fn fail_with<C>(self, code: ExitCode, context: impl FnOnce() -> C) -> Result<T, Failure>
    where
        C: fmt::Display + Send + Sync + 'static,
    {
        self.map_err(|error| Failure {
            code,
            error: error.into().context(context()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_its_cause() {
        let cause = std::io::Error::other("first\n  second");
        let failure = Err::<(), _>(cause)
            .fail_with(ExitCode::Busy, || "port 44880")
            .unwrap_err();
        assert_eq!(failure.to_string(), "port 44880: first second");
        assert_eq!(failure.code, ExitCode::Busy);
    }

    #[test]
    fn the_code_survives_the_way_through_anyhow() {
        let failure = Failure::new(ExitCode::Kernel, "no BTF").context("start");
        let back = Failure::from(anyhow::Error::from(failure));
        assert_eq!(back.code, ExitCode::Kernel);
        assert_eq!(back.to_string(), "start: no BTF");
    }
}
