//! A case: a call of a phase with a fault, and how it ends.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail};
use dz_tests::injector::{Call, Fault};
use nix::errno::Errno;

/// What the agent does when the call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It starts where none has been.
    Start,
    /// It starts where another has died, whose sessions are Up.
    Takeover,
    /// It does all that it ever does while it runs.
    Work,
}

impl Phase {
    /// Every phase.
    pub(crate) const ALL: [Self; 3] = [Self::Start, Self::Takeover, Self::Work];

    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Takeover => "takeover",
            Self::Work => "work",
        }
    }
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) phase: Phase,
    pub(crate) call: Call,
    pub(crate) fault: Fault,
}

impl fmt::Display for Case {
    /// As `FromStr` reads it: `PHASE|CALL|NUMBER|FAULT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, call, fault } = self;
        write!(f, "{}|{}|{}|", phase.name(), call.kind, call.number)?;
        match fault {
            Fault::Error(errno) => write!(f, "{errno:?}"),
            Fault::Kill => write!(f, "KILL"),
        }
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<_> = text.split('|').collect();
        let [phase, kind, number, fault] = parts[..] else {
            bail!("not PHASE|CALL|NUMBER|FAULT: {text}");
        };
        let mut phases = Phase::ALL.into_iter();
        let call = Call {
            kind: kind.to_owned(),
            number: number.parse().context("the call's number")?,
        };
        let fault = if fault == "KILL" {
            Fault::Kill
        } else {
            let errors = dz_tests::injector::errors(kind).iter();
            let named = errors.copied().find(|errno| format!("{errno:?}") == fault);
            Fault::Error(named.with_context(|| format!("{kind} is not made to fail with {fault}"))?)
        };
        Ok(Self {
            phase: phases
                .find(|known| known.name() == phase)
                .context("no such phase")?,
            call,
            fault,
        })
    }
}

/// How a case ends. What is wrong is an error instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The agent refused with one line, and nothing was changed.
    Refused,
    /// It went on, and all was right.
    WentOn,
    /// It ended, or was killed, and the next start was right.
    Ended,
    /// The call did not come this time.
    NotMet,
}

impl Outcome {
    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::WentOn => "went on",
            Self::Ended => "ended, next start right",
            Self::NotMet => "not met",
        }
    }
}

/// Every error of a kind of calls, then the kill.
pub(crate) fn faults(kind: &str) -> impl Iterator<Item = Fault> {
    let errors = dz_tests::injector::errors(kind).iter();
    let errors = errors.map(|errno: &Errno| Fault::Error(*errno));
    errors.chain([Fault::Kill])
}
