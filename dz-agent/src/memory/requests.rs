//! What a process asks of maps and programs, with the signatures and the errors of the real calls.

use std::io;

use dz_common::control::{OP_START_GROUP, Request};
use dz_common::counters::{Counter, Counters};
use dz_common::map::{
    Confined, Event, LocalKey, MAX_DUE, Peer, PeerKey, SLOTS_PER_GROUP, SessionEntry, SessionKey,
};

use super::calls::Call;
use super::errors::{LOOKUP, UPDATE, batch_error, io_error, map_error};
use super::handle::{Done, Handle};
use super::kernel::Kernel;
use super::maps::deleted;
use crate::datapath::{AttachMode, MapError, Order, Settings, Transmitted};
use crate::error::{ExitCode, FailWith, Failure};

/// How long a dead agent is told to wait before it asks for a session again.
const DEAD_PAUSE_NS: u64 = 1_000_000_000;

impl Handle {
    /// Loads the kernel part, or opens what an earlier agent has left, as
    /// [`Datapath::load`](crate::datapath::Datapath::load).
    ///
    /// # Errors
    /// [`ExitCode::Kernel`]: there is no memory for the maps.
    pub fn load(&self, settings: &Settings) -> Result<(), Failure> {
        let wanted = settings.max_sessions.next_multiple_of(SLOTS_PER_GROUP);
        let made = self.change(&Call::MakeMaps, |kernel| {
            kernel.make_maps(wanted);
        });
        match made {
            Done::Made(()) | Done::Dead => Ok(()),
            Done::Refused(errno) => {
                Err(io_error(errno)).fail_with(ExitCode::Kernel, || "the kernel refuses the maps")
            }
        }
    }

    /// Starts the timers.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`]: one does not start.
    pub fn start_timers(&self) -> Result<(), Failure> {
        let groups = self.slots().div_ceil(SLOTS_PER_GROUP);
        for index in 0..groups {
            let request = Request {
                op: OP_START_GROUP,
                index,
                ..Request::NONE
            };
            let why = match self.control(&request) {
                Ok(Counter::ControlDone) => continue,
                Ok(exit) => exit.name().to_owned(),
                Err(error) => error.to_string(),
            };
            let what = format!("detection timer {index} of {groups} does not start: {why}");
            return Err(Failure::new(ExitCode::Kernel, what));
        }
        Ok(())
    }

    /// Puts our programs on these interfaces, or on none.
    ///
    /// # Errors
    /// [`ExitCode::Interface`]: the kernel refuses one.
    pub fn attach_all(&self, indices: &[u32]) -> Result<(), Failure> {
        let mut new = Vec::new();
        for ifindex in indices {
            let is_new = !self.is_attached(*ifindex);
            if let Err(error) = self.attach(*ifindex, AttachMode::Tc) {
                for ifindex in new {
                    let _ = self.detach(ifindex);
                }
                return Err(error).fail_with(ExitCode::Interface, || "cannot attach as tc");
            }
            if is_new {
                new.push(*ifindex);
            }
        }
        Ok(())
    }

    /// Starts the timers, attaches to the interfaces and goes on with these settings, as
    /// [`Datapath::begin`](crate::datapath::Datapath::begin).
    ///
    /// # Errors
    /// As of [`Self::start_timers`] and [`Self::attach_all`].
    pub fn begin(&self, indices: &[u32], settings: &Settings) -> Result<(), Failure> {
        self.start_timers()?;
        self.attach_all(indices)?;
        self.configure(settings);
        Ok(())
    }

    /// Has the kernel part go on with these settings, and a first heartbeat.
    fn configure(&self, settings: &Settings) {
        let now_ns = self.now_ns();
        self.change(&Call::Configure, |kernel| {
            let maps = kernel.loaded();
            let groups = maps.slots().div_ceil(SLOTS_PER_GROUP);
            maps.set_config(settings.config(groups));
            maps.beat(now_ns);
        });
    }

    /// Returns how many sessions the maps have room for.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.kernel().borrow_mut().loaded().slots()
    }

    /// Reads one session; none if there is none with this key.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn session(&self, key: &SessionKey) -> Result<Option<SessionEntry>, MapError> {
        let call = Call::ReadSession(*key);
        let read = self.look(&call, |kernel| kernel.loaded().session(key));
        read.map_err(|errno| map_error(LOOKUP, errno))
    }

    /// Reads every session.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sessions(&self) -> Result<Vec<SessionEntry>, MapError> {
        let read = self.look(&Call::ReadSessions, |kernel| {
            let sessions = kernel.loaded().sessions().iter();
            sessions.map(|(_, entry)| *entry).collect()
        });
        read.map_err(batch_error)
    }

    /// Shows every peer.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn each_peer(&self, mut show: impl FnMut(PeerKey, Peer)) -> Result<(), MapError> {
        let read = self.look(&Call::ReadPeers, |kernel| -> Vec<(PeerKey, Peer)> {
            let peers = kernel.loaded().peers();
            peers.map(|(key, peer)| (*key, *peer)).collect()
        });
        for (key, peer) in read.map_err(batch_error)? {
            show(key, peer);
        }
        Ok(())
    }

    /// Reads every local address, with its block of counters.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn locals(&self) -> Result<Vec<(LocalKey, u32)>, MapError> {
        let read = self.look(&Call::ReadLocals, |kernel| {
            let locals = kernel.loaded().locals();
            locals.map(|(key, block)| (*key, *block)).collect()
        });
        read.map_err(|errno| map_error(LOOKUP, errno))
    }

    /// Reads every address that is confined to gated interfaces.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn confined(&self) -> Result<Vec<Confined>, MapError> {
        let read = self.look(&Call::ReadConfined, |kernel| {
            kernel.loaded().confined().copied().collect()
        });
        read.map_err(|errno| map_error(LOOKUP, errno))
    }

    /// Reads a block of counters.
    ///
    /// # Errors
    /// There is no such block, or the kernel refuses.
    pub fn counters(&self, block: u32) -> Result<Counters, MapError> {
        let call = Call::ReadCounters(block);
        let read = self.look(&call, |kernel| kernel.loaded().counters(block));
        read.map_err(|errno| map_error(LOOKUP, errno))?
    }

    /// Returns until when the transmit program need not be asked for the session of a slot, ns; none if
    /// it is to be asked by `now_ns`.
    #[must_use]
    pub fn not_due_before(&self, slot: u32, now_ns: u64) -> Option<u64> {
        let mut kernel = self.kernel().borrow_mut();
        kernel.loaded().not_due_before(slot, now_ns)
    }

    /// Takes the next state change that the kernel programs have reported. A dead process takes none.
    pub fn next_event(&mut self) -> Option<Result<Event, MapError>> {
        if !self.is_alive() {
            return None;
        }
        self.kernel().borrow_mut().loaded().next_event().map(Ok)
    }

    /// Tells the kernel programs that the agent is alive. It is no effect to die after: what it changes
    /// is found only with time.
    pub fn beat(&mut self, now_ns: u64) {
        if self.is_alive() {
            self.kernel().borrow_mut().loaded().beat(now_ns);
        }
    }

    /// Gives a deadline slot to a session that is about to be inserted, and that is due at once.
    pub fn prepare_slot(&mut self, slot: u32, key: SessionKey, now_ns: u64) {
        let call = Call::PrepareSlot(slot);
        self.change(&call, |kernel| kernel.prepare_slot(slot, key, now_ns));
    }

    /// Inserts a session.
    ///
    /// # Errors
    /// There is one with this peer by this interface (`EEXIST`), the map is full (`E2BIG`), or the kernel
    /// refuses.
    pub fn insert_session(&mut self, entry: &SessionEntry) -> Result<(), MapError> {
        let call = Call::InsertSession(entry.key);
        written(self.change(&call, |kernel| kernel.insert_session(entry)))
    }

    /// Deletes the session with the key's peer by its interface. That it is gone already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_session(&mut self, key: &SessionKey) -> Result<(), MapError> {
        let call = Call::DeleteSession(*key);
        removed(self.change(&call, |kernel| kernel.loaded().delete_session(key)))
    }

    /// Writes a peer.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    pub fn set_peer(&mut self, key: &PeerKey, peer: &Peer) -> Result<(), MapError> {
        let call = Call::SetPeer(*key);
        written(self.change(&call, |kernel| kernel.loaded().set_peer(key, peer)))
    }

    /// Writes which block of counters a local address has.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    pub fn set_local(&mut self, key: &LocalKey, block: u32) -> Result<(), MapError> {
        let call = Call::SetLocal(*key);
        written(self.change(&call, |kernel| kernel.loaded().set_local(key, block)))
    }

    /// Sets a block of counters to zero.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear_counters(&mut self, block: u32) -> Result<(), MapError> {
        let call = Call::ClearCounters(block);
        written(self.change(&call, |kernel| {
            kernel.loaded().clear_counters(block);
            Ok(())
        }))
    }

    /// Deletes a local address. That it is gone already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_local(&mut self, key: &LocalKey) -> Result<(), MapError> {
        let call = Call::DeleteLocal(*key);
        removed(self.change(&call, |kernel| kernel.loaded().delete_local(key)))
    }

    /// Keeps packets from an address of an interface from leaving by another one.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    pub fn confine(&mut self, key: &Confined, ifindex: u32) -> Result<(), MapError> {
        let call = Call::Confine(*key);
        written(self.change(&call, |kernel| kernel.loaded().confine(key, ifindex)))
    }

    /// Lets packets from an address leave by any interface. That they may already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn release(&mut self, key: &Confined) -> Result<(), MapError> {
        let call = Call::Release(*key);
        removed(self.change(&call, |kernel| kernel.loaded().release(key)))
    }

    /// Runs the control program; returns the exit that it took.
    ///
    /// # Errors
    /// It could not be run.
    pub fn control(&self, request: &Request) -> io::Result<Counter> {
        let call = Call::Control(request.op, request.key);
        match self.change(&call, |kernel| kernel.control(request)) {
            Done::Made(exit) => Ok(exit),
            Done::Refused(errno) => Err(io_error(errno)),
            Done::Dead => Ok(Counter::ControlDone),
        }
    }

    /// Runs the transmit program over sessions; `done` gets each order with its outcome, in their order.
    ///
    /// # Errors
    /// It could not be run. The orders that `done` has not got are not carried out.
    pub fn transmit(
        &self,
        orders: &[Order],
        mut done: impl FnMut(&Order, Transmitted),
    ) -> io::Result<()> {
        for batch in orders.chunks(MAX_DUE as usize) {
            let call = Call::Transmit(u32::try_from(batch.len()).unwrap_or(MAX_DUE));
            let outcomes = match self.change(&call, |kernel| run(kernel, batch)) {
                Done::Made(outcomes) => outcomes,
                Done::Refused(errno) => return Err(io_error(errno)),
                Done::Dead => {
                    let next_due_ns = self.now_ns() + DEAD_PAUSE_NS;
                    let exit = Some(Counter::TxOriginated);
                    vec![Transmitted { exit, next_due_ns }; batch.len()]
                }
            };
            for (order, outcome) in batch.iter().zip(outcomes) {
                done(order, outcome);
            }
        }
        Ok(())
    }
}

/// One run of the transmit program: nothing comes between its sessions.
fn run(kernel: &mut Kernel, batch: &[Order]) -> Vec<Transmitted> {
    let transmit = |order: &Order| {
        let mut due = order.due();
        kernel.transmit(&mut due);
        Transmitted {
            exit: Counter::ALL.get(due.exit as usize).copied(),
            next_due_ns: due.next_due_ns,
        }
    };
    batch.iter().map(transmit).collect()
}

fn written(done: Done<Result<(), MapError>>) -> Result<(), MapError> {
    match done {
        Done::Made(result) => result,
        Done::Refused(errno) => Err(map_error(UPDATE, errno)),
        Done::Dead => Ok(()),
    }
}

fn removed(done: Done<()>) -> Result<(), MapError> {
    match done {
        Done::Made(()) | Done::Dead => Ok(()),
        Done::Refused(errno) => deleted(errno),
    }
}

#[cfg(test)]
mod tests;
