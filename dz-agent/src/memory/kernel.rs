//! One machine: maps, our programs on its interfaces, time, and what leaves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use dz_common::control::Request;
use dz_common::counters::Counter;
use dz_common::ingress::Link;
use dz_common::map::{NEVER_NS, SessionEntry, SessionKey};
use nix::errno::Errno;

use super::calls::Call;
use super::clock::Clock;
use super::maps::BpfMaps;
use super::programs::receive::Work;
use super::programs::{control, detect};
use crate::datapath::{AttachMode, MapError};

/// Decides whether the kernel refuses a call, and with which of the errors that it may refuse it with.
pub type Refuse = Box<dyn FnMut(&Call) -> Option<Errno>>;

/// An interface, as far as packets are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// What frames there start with.
    pub link: Link,
    /// Its Ethernet address, if it has one.
    pub mac: [u8; 6],
    /// Packets come and go.
    pub up: bool,
}

/// The kernel of one machine. It outlives the agents on it.
#[derive(Default)]
pub struct Kernel {
    clock: Clock,
    pub(super) maps: Option<BpfMaps>,
    pub(super) devices: BTreeMap<u32, Device>,
    pub(super) attached: BTreeMap<u32, AttachMode>,
    /// Frames that have left, and by which interface, until somebody takes them.
    pub(super) outbox: Vec<(u32, Vec<u8>)>,
    /// Programs that have found their session and not locked it yet, by number.
    pub(super) running: BTreeMap<u64, Work>,
    pub(super) begun: u64,
    overwritten: u64,
    refuse: Option<Refuse>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("now_ns", &self.now_ns())
            .field("devices", &self.devices)
            .field("attached", &self.attached)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Kernel {
    /// Makes a machine without interfaces on which no agent has run yet, to be shared by those who do.
    #[must_use]
    pub fn shared() -> Rc<RefCell<Self>> {
        Rc::default()
    }

    /// Returns the time, ns.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Returns the clock, for those who wait for it.
    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Sets the time and wakes who has waited for it. Timers fire by [`Kernel::run_timers`].
    pub fn set_now_ns(&mut self, now_ns: u64) {
        self.clock.set(now_ns);
    }

    /// Returns when the first of those who wait for the time is to be woken, ns.
    #[must_use]
    pub fn next_wake_ns(&self) -> Option<u64> {
        self.clock.next_wake_ns()
    }

    /// Has the kernel refuse calls as somebody says, who must not use the kernel meanwhile; none: it
    /// refuses nothing that is in order.
    pub fn set_refuse(&mut self, refuse: Option<Refuse>) {
        self.refuse = refuse;
    }

    /// Asks whether a call is refused.
    pub(super) fn refuses(&mut self, call: &Call) -> Option<Errno> {
        self.refuse.as_mut()?(call)
    }

    /// Sets an interface; none: it is gone, and our programs on it with it.
    pub fn set_device(&mut self, ifindex: u32, device: Option<Device>) {
        if let Some(device) = device {
            self.devices.insert(ifindex, device);
        } else {
            self.devices.remove(&ifindex);
            self.attached.remove(&ifindex);
        }
    }

    /// Returns the maps, if there are any.
    #[must_use]
    pub const fn maps(&self) -> Option<&BpfMaps> {
        self.maps.as_ref()
    }

    /// The same for what changes them.
    pub const fn maps_mut(&mut self) -> Option<&mut BpfMaps> {
        self.maps.as_mut()
    }

    /// Makes maps with so many deadline slots, unless there are some.
    pub(super) fn make_maps(&mut self, slots: u32) -> &mut BpfMaps {
        self.maps.get_or_insert_with(|| BpfMaps::new(slots))
    }

    /// Removes the kernel part, as `dz-agent purge` does: programs, maps and timers. No agent may run.
    pub fn unload(&mut self) {
        self.attached.clear();
        self.running.clear();
        self.maps = None;
    }

    /// Puts our programs on an interface, in place of those that are there.
    ///
    /// # Errors
    /// `ENODEV`: there is no such interface.
    pub fn attach(&mut self, ifindex: u32, mode: AttachMode) -> Result<(), Errno> {
        if !self.devices.contains_key(&ifindex) {
            return Err(Errno::ENODEV);
        }
        self.attached.insert(ifindex, mode);
        Ok(())
    }

    /// Takes our programs off an interface. That there are none is no error.
    pub fn detach(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
    }

    /// Returns where our programs are on an interface, if they are.
    #[must_use]
    pub fn attached(&self, ifindex: u32) -> Option<AttachMode> {
        self.attached.get(&ifindex).copied()
    }

    /// Returns how often the agent has written memory that a running program could still hold: in a real
    /// kernel that program may see, or leave, half of one session and half of another.
    #[must_use]
    pub const fn overwritten(&self) -> u64 {
        self.overwritten
    }

    /// Inserts a session.
    pub(super) fn insert_session(&mut self, entry: &SessionEntry) -> Result<(), MapError> {
        let element = self.loaded().insert_session(entry)?;
        let held = self.running.values();
        let held = held.filter(|work| work.element() == element);
        self.overwritten += held.count() as u64;
        Ok(())
    }

    /// Writes a deadline slot for a session that is about to be inserted.
    pub(super) fn prepare_slot(&mut self, slot: u32, key: SessionKey, now_ns: u64) {
        let held = self.running.values().filter(|work| work.slot() == slot);
        self.overwritten += held.count() as u64;
        self.loaded().prepare_slot(slot, key, now_ns);
    }

    /// Runs the control program.
    pub(super) fn control(&mut self, request: &Request) -> Counter {
        let now_ns = self.now_ns();
        control::control(self.loaded(), request, now_ns)
    }

    /// Returns when the next detection timer fires, ns; none if none does.
    #[must_use]
    pub fn next_timer_ns(&self) -> Option<u64> {
        let next_ns = self.maps.as_ref().map(detect::next_timer_ns);
        next_ns.filter(|next_ns| *next_ns != NEVER_NS)
    }

    /// Fires the detection timers whose time has come.
    pub fn run_timers(&mut self) {
        let now_ns = self.now_ns();
        if let Some(maps) = &mut self.maps {
            detect::run_timers(maps, now_ns);
        }
    }

    /// Returns the maps of an agent that runs.
    ///
    /// # Panics
    /// There are none: an agent holds its maps for as long as it lives.
    pub(super) fn loaded(&mut self) -> &mut BpfMaps {
        let maps = self.maps.as_mut();
        maps.expect(
            "an agent that uses the maps has loaded them, and nobody has unloaded them since",
        )
    }
}
