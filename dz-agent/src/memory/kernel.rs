//! One machine: maps, our programs on its interfaces, time, and what leaves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use dz_common::control::Request;
use dz_common::counters::Counter;
use dz_common::headers::ETHERNET_LEN;
use dz_common::ingress::Link;
use dz_common::map::{Due, NEVER_NS, SessionEntry, SessionKey};
use nix::errno::Errno;

use super::calls::Call;
use super::clock::Clock;
use super::maps::BpfMaps;
use super::programs::gate::{self, Gate, Leaving, Mark};
use super::programs::receive::{self, Arrival, Verdict, Work};
use super::programs::transmit::{self, Outgoing};
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
    maps: Option<BpfMaps>,
    devices: BTreeMap<u32, Device>,
    attached: BTreeMap<u32, AttachMode>,
    /// Frames that have left, and by which interface, until somebody takes them.
    outbox: Vec<(u32, Vec<u8>)>,
    /// Programs that have found their session and not locked it yet, by number.
    running: BTreeMap<u64, Work>,
    begun: u64,
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

    /// Runs our program over a frame that comes in; what it answers leaves. A frame that nothing of ours
    /// sees passes. [`Verdict::Answer`] is told, and has been sent.
    pub fn receive(&mut self, ifindex: u32, frame: &[u8]) -> Verdict {
        match self.begin(ifindex, frame) {
            Ok(number) => self.finish(number),
            Err(verdict) => verdict,
        }
    }

    /// Begins that and stops between the look-up of the session and its lock; returns a number for
    /// [`Kernel::finish`].
    ///
    /// # Errors
    /// The verdict over a frame that does not get so far.
    pub fn begin(&mut self, ifindex: u32, frame: &[u8]) -> Result<u64, Verdict> {
        let (Some(device), Some(&mode), Some(maps)) = (
            self.devices.get(&ifindex),
            self.attached.get(&ifindex),
            &mut self.maps,
        ) else {
            return Err(Verdict::Pass);
        };
        if !device.up {
            return Err(Verdict::Drop);
        }
        let arrival = Arrival {
            ifindex,
            mode,
            link: device.link,
            // What eth_type_trans makes PACKET_HOST.
            to_host: device.link == Link::Layer3 || frame.starts_with(&device.mac),
            tagged: false,
            frame,
        };
        let work = receive::begin(maps, &arrival)?;
        self.begun += 1;
        self.running.insert(self.begun, work);
        Ok(self.begun)
    }

    /// Ends a program that [`Kernel::begin`] began. One that has ended already drops nothing twice.
    pub fn finish(&mut self, number: u64) -> Verdict {
        let now_ns = self.now_ns();
        let (Some(work), Some(maps)) = (self.running.remove(&number), &mut self.maps) else {
            return Verdict::Drop;
        };
        let verdict = receive::finish(maps, &work, now_ns);
        if let Verdict::Answer { block, frame } = &verdict {
            let ifindex = work.ifindex();
            match self.attached.get(&ifindex) {
                // XDP_TX passes no queue, and so no gate.
                Some(AttachMode::Xdp | AttachMode::XdpGeneric) => {
                    self.outbox.push((ifindex, frame.clone()));
                }
                _ => {
                    self.leave(ifindex, *block, frame.clone());
                }
            }
        }
        verdict
    }

    /// Returns programs that have begun and not ended.
    pub fn running(&self) -> impl Iterator<Item = u64> {
        self.running.keys().copied()
    }

    /// Waits until every program that runs has ended (`membarrier(2)`): afterwards none can hold what
    /// sessions left behind.
    pub fn wait_for_programs(&mut self) {
        while let Some((&number, _)) = self.running.first_key_value() {
            self.finish(number);
        }
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

    /// Runs the transmit program over one entry of its list.
    pub(super) fn transmit(&mut self, due: &mut Due) {
        let now_ns = self.now_ns();
        // The maps are out while the program uses them, and what it sends passes the gate by them.
        let Some(mut maps) = self.maps.take() else {
            return;
        };
        transmit::transmit(&mut maps, due, now_ns, |maps, outgoing| {
            self.send(maps, outgoing)
        });
        self.maps = Some(maps);
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

    /// Runs the gate over a packet that is about to leave; nothing is sent. Without a gate it passes.
    pub fn gate(&mut self, ifindex: u32, packet: &[u8], mark: Mark) -> Gate {
        let (Some(device), true, Some(maps)) = (
            self.devices.get(&ifindex),
            self.attached.contains_key(&ifindex),
            &mut self.maps,
        ) else {
            return Gate::Pass;
        };
        let leaving = Leaving {
            ifindex,
            link: device.link,
            mark,
            frame: packet,
        };
        gate::egress(maps, &leaving)
    }

    /// Takes the frames that have left, and by which interface.
    pub fn take_frames(&mut self) -> Vec<(u32, Vec<u8>)> {
        std::mem::take(&mut self.outbox)
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

    /// Sends a frame of the transmit program, which has an Ethernet header whatever the device
    /// (`bpf_clone_redirect`).
    fn send(&mut self, maps: &mut BpfMaps, outgoing: Outgoing) -> bool {
        let Outgoing {
            ifindex,
            block,
            mut frame,
        } = outgoing;
        let Some(&device) = self.devices.get(&ifindex) else {
            return false;
        };
        if device.link == Link::Layer3 {
            frame.drain(..ETHERNET_LEN);
        }
        if self.attached.contains_key(&ifindex) {
            let leaving = Leaving {
                ifindex,
                link: device.link,
                mark: Mark::Liveness(block),
                frame: &frame,
            };
            gate::egress(maps, &leaving);
        }
        if device.up {
            self.outbox.push((ifindex, frame));
        }
        device.up
    }

    /// Sends an answer by the interface where its packet came in (`bpf_redirect`): what becomes of it the
    /// program does not learn.
    fn leave(&mut self, ifindex: u32, block: u32, frame: Vec<u8>) {
        self.gate(ifindex, &frame, Mark::Liveness(block));
        if self.devices.get(&ifindex).is_some_and(|device| device.up) {
            self.outbox.push((ifindex, frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use dz_common::control::{OP_START_GROUP, Request};
    use dz_common::packet::State;

    use super::*;
    use crate::fixture::{NOW_NS, entry};
    use crate::memory::fixture::{
        BLOCK, IFINDEX, OURS, PEER, THEIRS, frame, packet, session, settings,
    };

    fn device(link: Link) -> Device {
        Device {
            link,
            mac: OURS,
            up: true,
        }
    }

    /// A machine with one session, in Down.
    fn machine(link: Link, mode: AttachMode) -> Kernel {
        let mut kernel = Kernel::default();
        kernel.set_now_ns(NOW_NS);
        kernel.set_device(IFINDEX, Some(device(link)));
        kernel.attach(IFINDEX, mode).unwrap();
        let maps = kernel.make_maps(8);
        maps.set_config(settings().config(1));
        maps.beat(NOW_NS);
        let request = Request {
            op: OP_START_GROUP,
            ..Request::NONE
        };
        kernel.control(&request);
        let entry = entry(PEER);
        kernel.prepare_slot(entry.slot, entry.key, NOW_NS);
        kernel.insert_session(&entry).unwrap();
        kernel
    }

    /// A frame that brings the session Up.
    fn said(kernel: &Kernel, link: Link) -> Vec<u8> {
        let entry = session(kernel.maps().unwrap());
        frame(&entry.key, &packet(&entry, State::Init), link)
    }

    fn due() -> Due {
        let entry = entry(PEER);
        crate::datapath::Order {
            key: entry.key,
            slot: entry.slot,
            generation: entry.generation,
            force: true,
            ethernet: Some((THEIRS, OURS)),
        }
        .due()
    }

    #[test]
    fn an_answer_leaves_by_the_gate_but_from_xdp() {
        for (mode, gated) in [(AttachMode::Tc, 1), (AttachMode::Xdp, 0)] {
            let mut kernel = machine(Link::Ethernet, mode);
            let said = said(&kernel, Link::Ethernet);
            let verdict = kernel.receive(IFINDEX, &said);
            let Verdict::Answer { frame, .. } = verdict else {
                panic!("{verdict:?}");
            };
            assert_eq!(kernel.take_frames(), [(IFINDEX, frame)]);
            assert_eq!(kernel.take_frames(), []);
            let counters = kernel.maps().unwrap().counters(BLOCK).unwrap();
            assert_eq!((counters.rx_answered, counters.gate_liveness), (1, gated));
        }
    }

    #[test]
    fn without_our_programs_frames_pass() {
        let mut kernel = machine(Link::Layer3, AttachMode::Tc);
        let said = said(&kernel, Link::Layer3);
        assert_eq!(kernel.receive(IFINDEX + 1, &said), Verdict::Pass);
        kernel.detach(IFINDEX);
        assert_eq!(kernel.receive(IFINDEX, &said), Verdict::Pass);
        kernel.attach(IFINDEX, AttachMode::Tc).unwrap();
        kernel.set_device(IFINDEX, None);
        assert_eq!(kernel.attached(IFINDEX), None);
        assert_eq!(kernel.attach(IFINDEX, AttachMode::Tc), Err(Errno::ENODEV));
        assert_eq!(session(kernel.maps().unwrap()), entry(PEER));
    }

    #[test]
    fn a_layer_3_device_strips_the_ethernet_header() {
        for (link, len) in [(Link::Layer3, 68), (Link::Ethernet, 82)] {
            let mut kernel = machine(link, AttachMode::Tc);
            let mut due = due();
            kernel.transmit(&mut due);
            assert_eq!(due.exit, Counter::TxOriginated as u32);
            let frames = kernel.take_frames();
            assert_eq!(frames.len(), 1);
            assert_eq!((frames[0].0, frames[0].1.len()), (IFINDEX, len));
            let counters = kernel.maps().unwrap().counters(BLOCK).unwrap();
            assert_eq!(counters.gate_liveness, 1);
        }
    }

    #[test]
    fn an_interface_that_is_down_or_gone_takes_nothing() {
        let mut kernel = machine(Link::Layer3, AttachMode::Tc);
        let said = said(&kernel, Link::Layer3);
        let down = Device {
            up: false,
            ..device(Link::Layer3)
        };
        for device in [Some(down), None] {
            kernel.set_device(IFINDEX, device);
            let mut due = due();
            kernel.transmit(&mut due);
            assert_eq!(due.exit, Counter::TxFailed as u32);
            kernel.receive(IFINDEX, &said);
        }
        assert_eq!(kernel.take_frames(), []);
        let entry = session(kernel.maps().unwrap());
        assert_eq!(entry.session.state, State::Down);
    }

    #[test]
    fn memory_that_a_program_may_hold_is_not_to_be_written() {
        let mut kernel = machine(Link::Layer3, AttachMode::Tc);
        let said = said(&kernel, Link::Layer3);
        let old = entry(PEER);
        let mut new = entry([10, 0, 0, 3]);

        // As it must be: the agent waits before it uses either again.
        let number = kernel.begin(IFINDEX, &said).unwrap();
        kernel.loaded().delete_session(&old.key);
        kernel.wait_for_programs();
        assert_eq!(kernel.running().count(), 0);
        assert_eq!(kernel.finish(number), Verdict::Drop, "ended already");
        kernel.prepare_slot(new.slot, new.key, NOW_NS);
        kernel.insert_session(&new).unwrap();
        assert_eq!(kernel.overwritten(), 0);

        // As it must not be.
        kernel.loaded().delete_session(&new.key);
        kernel.insert_session(&old).unwrap();
        kernel.begin(IFINDEX, &said).unwrap();
        kernel.loaded().delete_session(&old.key);
        new.slot = 1;
        kernel.insert_session(&new).unwrap();
        assert_eq!(kernel.overwritten(), 1);
        kernel.prepare_slot(old.slot, new.key, NOW_NS);
        assert_eq!(kernel.overwritten(), 2);
    }

    #[test]
    fn the_kernel_part_goes_as_a_whole() {
        let mut kernel = machine(Link::Layer3, AttachMode::Tc);
        assert!(kernel.next_timer_ns().is_some());
        kernel.unload();
        assert!(kernel.maps().is_none());
        assert_eq!(kernel.next_timer_ns(), None);
        assert_eq!(kernel.attached(IFINDEX), None);
        kernel.run_timers();
        let maps = kernel.make_maps(8);
        assert_eq!(maps.sessions().iter().count(), 0);
    }
}
