//! A program of ours at a hook of an interface: what holds it there, and where it was when it was last looked for.

use std::io;

use super::hook::Hook;
use super::release::ProgramHolder;
use crate::net::links::Interface;

/// A program at a hook of an interface.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) hook: Hook,
    /// Its name in the object.
    pub(super) program: &'static str,
    /// None while nothing holds it there: taking an old link off was the last that could be done.
    pub(super) holder: Option<ProgramHolder>,
    /// Whether it has been moved to the front since the start.
    pub(super) moved: bool,
    /// Where it was when it was last looked for.
    pub(super) place: Place,
}

impl Held {
    pub(super) fn new(hook: Hook, program: &'static str, holder: Option<ProgramHolder>) -> Self {
        Self {
            hook,
            program,
            holder,
            moved: false,
            place: Place::First,
        }
    }

    pub(super) fn release(self) -> io::Result<()> {
        self.holder.map_or(Ok(()), ProgramHolder::release)
    }
}

/// Where a program of ours is among those of its hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It runs first.
    First,
    /// So many programs of others run before it. What they do with packets cannot be known.
    Behind(usize),
    /// It is not there, and cannot be put there; why, for people.
    Missing(String),
}

/// What was put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The hook: `ingress` or `gate`.
    pub hook: &'static str,
    /// What was not as it should be, and is now.
    pub what: &'static str,
}

/// An interface as the kernel has it now.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// The interface.
    pub interface: &'a Interface,
    /// Below Linux 6.6, the programs of its filters at ingress and egress by their kernel ids, in their order; see
    /// [`super::filters::chains`].
    pub filters: &'a [Vec<u32>; 2],
}
