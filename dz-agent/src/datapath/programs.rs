//! Runs the transmit and control programs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use dz_common::control::{REQUEST_OFFSET, Request};
use dz_common::counters::Counter;
use dz_common::headers::{ETHERNET_LEN, ETHERTYPE_IPV4};
use dz_common::ingress::Link;
use dz_common::map::{DUE_ETHERNET, DUE_FORCE, Due, MAX_DUE, SessionKey};
use zerocopy::IntoBytes;

use super::maps::Maps;
use super::names::{CONTROL, TRANSMIT};
use super::object::{Loaded, Object};
use super::raw::run::test_run;
use crate::error::{ExitCode, FailWith, Failure};

/// Offset and number of `__sk_buff.cb[]`, and the size of the context up to its end.
const CB_OFFSET: usize = 48;
const CONTEXT_LEN: usize = 192;

/// The request to the transmit program to look at one session.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The session.
    pub key: SessionKey,
    /// Its slot.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// Transmit whether due or not.
    pub force: bool,
    /// Ethernet addresses of next hop and interface; none on a layer-3 device.
    pub ethernet: Option<([u8; 6], [u8; 6])>,
}

impl Order {
    /// Returns it as the transmit program reads it.
    pub(crate) fn due(&self) -> Due {
        let (destination, source) = self.ethernet.unwrap_or_default();
        let mut flags = 0;
        if self.force {
            flags |= DUE_FORCE;
        }
        if self.ethernet.is_some() {
            flags |= DUE_ETHERNET;
        }
        Due {
            key: self.key,
            generation: self.generation,
            flags,
            exit: u32::MAX,
            next_due_ns: 0,
            destination,
            source,
            reserved: 0,
        }
    }
}

/// The outcome of an [`Order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmitted {
    /// The exit taken.
    pub exit: Option<Counter>,
    /// When to ask again, ns; 0 if the session is gone.
    pub next_due_ns: u64,
}

/// The programs that the agent runs itself.
pub(super) struct Runner {
    transmit: OwnedFd,
    control: OwnedFd,
    /// An IPv4 packet's worth of zeros behind an Ethernet header.
    frame: [u8; Link::Ethernet.frame_len()],
}

impl Runner {
    pub(super) fn new(object: &mut Object) -> Result<Self, Failure> {
        let mut program = |name: &str| -> Result<OwnedFd, Failure> {
            let program = match object.program(name)? {
                Loaded::Tc(program) => program.fd(),
                Loaded::Xdp(program) => program.fd(),
            };
            program
                .fail_with(ExitCode::Failure, || name.to_owned())?
                .as_fd()
                .try_clone_to_owned()
                .fail_with(ExitCode::Failure, || name.to_owned())
        };
        let mut frame = [0; Link::Ethernet.frame_len()];
        frame[ETHERNET_LEN - 2..ETHERNET_LEN].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        Ok(Self {
            transmit: program(TRANSMIT)?,
            control: program(CONTROL)?,
            frame,
        })
    }

    /// Runs the control program; returns its exit.
    pub(super) fn control(&self, request: &Request) -> io::Result<Counter> {
        let mut frame = [0; REQUEST_OFFSET + size_of::<Request>()];
        frame[..REQUEST_OFFSET].copy_from_slice(&self.frame[..REQUEST_OFFSET]);
        frame[REQUEST_OFFSET..].copy_from_slice(request.as_bytes());
        let exit = test_run(self.control.as_fd(), &frame, &[])?;
        let exit = Counter::ALL.get(exit as usize).copied();
        exit.ok_or_else(|| io::Error::other("the control program returned an unknown exit"))
    }

    /// Has the transmit program look at sessions; `done` gets every order with its outcome.
    ///
    /// # Errors
    /// If the program could not be run; the orders since the last call of `done` are undone.
    pub(super) fn transmit(
        &self,
        maps: &Maps,
        orders: &[Order],
        mut done: impl FnMut(&Order, Transmitted),
    ) -> io::Result<()> {
        for batch in orders.chunks(MAX_DUE as usize) {
            for (index, order) in (0..).zip(batch) {
                maps.set_due(index, order.due());
            }
            self.transmit_due(u32::try_from(batch.len()).unwrap_or(MAX_DUE))?;
            for (index, order) in (0..).zip(batch) {
                let (exit, next_due_ns) = maps.due(index).unwrap_or((u32::MAX, 0));
                let exit = Counter::ALL.get(exit as usize).copied();
                done(order, Transmitted { exit, next_due_ns });
            }
        }
        Ok(())
    }

    /// Runs the transmit program over the first entries of its list.
    fn transmit_due(&self, orders: u32) -> io::Result<()> {
        let mut context = [0; CONTEXT_LEN];
        context[CB_OFFSET..CB_OFFSET + 4].copy_from_slice(&orders.to_ne_bytes());
        test_run(self.transmit.as_fd(), &self.frame, &context).map(|_| ())
    }
}
