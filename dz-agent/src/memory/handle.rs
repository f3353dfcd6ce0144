//! One agent process: its calls, which the kernel may refuse, and its death between any two of them.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use dz_common::control::{OP_START_GROUP, Request};
use dz_common::counters::{Counter, Counters};
use dz_common::map::{
    Confined, Event, LocalKey, MAX_DUE, Peer, PeerKey, SLOTS_PER_GROUP, SessionEntry, SessionKey,
};
use nix::errno::Errno;

use super::calls::Call;
use super::clock::Sleep;
use super::errors::{LOOKUP, UPDATE, batch_error, io_error, map_error};
use super::kernel::Kernel;
use super::maps::deleted;
use crate::datapath::{AttachMode, MapError, Order, Settings, Transmitted};
use crate::error::{ExitCode, Failure};

/// How long a dead agent is told to wait before it asks for a session again.
const DEAD_PAUSE_NS: u64 = 1_000_000_000;

/// What became of a call.
#[derive(Debug)]
pub enum Done<T> {
    /// The kernel carried it out.
    Made(T),
    /// The kernel refused it.
    Refused(Errno),
    /// The agent was dead by then: nothing happened.
    Dead,
}

/// How far an agent's life is.
#[derive(Debug)]
struct Life {
    effects: Cell<u64>,
    last: Cell<u64>,
}

/// What an agent process has of the kernel. Clones are the same process.
#[derive(Clone, Debug)]
pub struct Handle {
    kernel: Rc<RefCell<Kernel>>,
    life: Rc<Life>,
}

impl Handle {
    /// Starts a process on a machine. It has not loaded anything yet.
    #[must_use]
    pub fn new(kernel: &Rc<RefCell<Kernel>>) -> Self {
        Self {
            kernel: Rc::clone(kernel),
            life: Rc::new(Life {
                effects: Cell::new(0),
                last: Cell::new(u64::MAX),
            }),
        }
    }

    /// Has the process die after its n-th effect: later ones change nothing any more, and return what
    /// looks plausible. 0: it dies at once.
    pub fn die_after(&self, effects: u64) {
        self.life.last.set(effects);
    }

    /// Returns how many effects the process had: calls that changed something, or could have.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.life.effects.get()
    }

    /// Says whether the process lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.life.effects.get() < self.life.last.get()
    }

    /// Returns the machine.
    #[must_use]
    pub const fn kernel(&self) -> &Rc<RefCell<Kernel>> {
        &self.kernel
    }

    /// Makes a call that changes something.
    pub fn change<T>(&self, call: &Call, make: impl FnOnce(&mut Kernel) -> T) -> Done<T> {
        if !self.is_alive() {
            return Done::Dead;
        }
        let mut kernel = self.kernel.borrow_mut();
        if let Some(errno) = kernel.refuses(call) {
            return Done::Refused(errno);
        }
        self.life.effects.set(self.life.effects.get() + 1);
        Done::Made(make(&mut kernel))
    }

    /// Makes a call that changes nothing. A dead process may.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn look<T>(&self, call: &Call, look: impl FnOnce(&mut Kernel) -> T) -> Result<T, Errno> {
        let mut kernel = self.kernel.borrow_mut();
        match kernel.refuses(call) {
            Some(errno) => Err(errno),
            None => Ok(look(&mut kernel)),
        }
    }

    /// Loads the kernel part, or takes over what an earlier agent has left, as
    /// [`Datapath::load`](crate::datapath::Datapath::load).
    ///
    /// # Errors
    /// [`ExitCode::Kernel`]: a timer does not start.
    pub fn load(&self, settings: &Settings) -> Result<(), Failure> {
        let now_ns = self.now_ns();
        let wanted = settings.max_sessions.next_multiple_of(SLOTS_PER_GROUP);
        let loaded = self.change(&Call::Configure, |kernel| {
            let maps = kernel.make_maps(wanted);
            let groups = maps.slots().div_ceil(SLOTS_PER_GROUP);
            maps.set_config(settings.config(groups));
            maps.beat(now_ns);
            groups
        });
        let Done::Made(groups) = loaded else {
            return Ok(());
        };
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

    /// Puts our programs on an interface.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refuses.
    pub fn attach(&self, ifindex: u32, mode: AttachMode) -> io::Result<()> {
        let call = Call::Attach(ifindex);
        match self.change(&call, |kernel| kernel.attach(ifindex, mode)) {
            Done::Made(result) => result.map_err(io_error),
            Done::Refused(errno) => Err(io_error(errno)),
            Done::Dead => Ok(()),
        }
    }

    /// Takes our programs off an interface.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(&self, ifindex: u32) -> io::Result<()> {
        let call = Call::Detach(ifindex);
        match self.change(&call, |kernel| kernel.detach(ifindex)) {
            Done::Made(()) | Done::Dead => Ok(()),
            Done::Refused(errno) => Err(io_error(errno)),
        }
    }

    /// Returns the time, ns.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.kernel.borrow().now_ns()
    }

    /// Waits for that long.
    pub fn sleep(&self, pause: Duration) -> Sleep {
        self.kernel.borrow().clock().sleep(pause)
    }

    /// Waits until every program that runs has ended (`membarrier(2)`).
    pub fn wait_for_programs(&self) {
        self.kernel.borrow_mut().wait_for_programs();
    }

    /// Returns how many sessions the maps have room for.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.kernel.borrow_mut().loaded().slots()
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
        let mut kernel = self.kernel.borrow_mut();
        kernel.loaded().not_due_before(slot, now_ns)
    }

    /// Takes the next state change that the kernel programs have reported. A dead process takes none.
    pub fn next_event(&mut self) -> Option<Result<Event, MapError>> {
        if !self.is_alive() {
            return None;
        }
        self.kernel.borrow_mut().loaded().next_event().map(Ok)
    }

    /// Tells the kernel programs that the agent is alive. It is no effect to die after: what it changes
    /// is found only with time.
    pub fn beat(&mut self, now_ns: u64) {
        if self.is_alive() {
            self.kernel.borrow_mut().loaded().beat(now_ns);
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
mod tests {
    use dz_common::control::OP_DISCONNECT;
    use dz_common::ingress::Link;
    use dz_common::packet::State;
    use dz_common::session::DownReason;

    use super::*;
    use crate::fixture::{NOW_NS, entry};
    use crate::memory::fixture::{IFINDEX, OURS, PEER, settings};
    use crate::memory::kernel::Device;

    /// A machine with an agent on it.
    fn agent() -> Handle {
        let kernel = Kernel::shared();
        let handle = Handle::new(&kernel);
        {
            let mut kernel = kernel.borrow_mut();
            kernel.set_now_ns(NOW_NS);
            let device = Device {
                link: Link::Layer3,
                mac: OURS,
                up: true,
            };
            kernel.set_device(IFINDEX, Some(device));
        }
        handle.load(&settings()).unwrap();
        handle.attach(IFINDEX, AttachMode::Tc).unwrap();
        handle
    }

    /// Inserts a session.
    fn open(handle: &mut Handle, entry: &SessionEntry) -> Result<(), MapError> {
        handle.prepare_slot(entry.slot, entry.key, handle.now_ns());
        handle.insert_session(entry)
    }

    fn order(entry: &SessionEntry, force: bool) -> Order {
        Order {
            key: entry.key,
            slot: entry.slot,
            generation: entry.generation,
            force,
            ethernet: None,
        }
    }

    fn disconnect(entry: &SessionEntry) -> Request {
        Request {
            op: OP_DISCONNECT,
            key: entry.key,
            generation: entry.generation,
            ..Request::NONE
        }
    }

    #[test]
    fn what_a_dead_agent_does_changes_nothing() {
        let mut dead = agent();
        let before = dead.effects();
        assert_eq!(before, 3, "configured, a timer started, attached");
        let entry = entry(PEER);
        dead.die_after(before + 2);
        open(&mut dead, &entry).unwrap();
        assert!(!dead.is_alive());
        assert_eq!(dead.effects(), before + 2);

        let exit = dead.control(&disconnect(&entry)).unwrap();
        assert_eq!(exit, Counter::ControlDone, "as if it had been");
        dead.delete_session(&entry.key).unwrap();
        dead.beat(NOW_NS + 1);
        let mut outcomes = Vec::new();
        dead.transmit(&[order(&entry, true)], |_, outcome| outcomes.push(outcome))
            .unwrap();
        assert_eq!(outcomes[0].exit, Some(Counter::TxOriginated));
        assert!(dead.kernel().borrow_mut().take_frames().is_empty());
        assert_eq!(dead.effects(), before + 2);

        // What the kernel has stays, for the next one.
        let next = Handle::new(dead.kernel());
        next.load(&settings()).unwrap();
        assert_eq!(next.sessions().unwrap(), [entry]);
        assert_eq!(next.kernel().borrow().maps().unwrap().beat_ns(), NOW_NS);
        assert!(next.is_alive());
    }

    #[test]
    fn an_agent_may_die_while_it_loads() {
        let kernel = Kernel::shared();
        for effects in 0..4 {
            let handle = Handle::new(&kernel);
            handle.die_after(effects);
            handle.load(&settings()).unwrap();
            assert_eq!(handle.effects(), effects.min(2));
        }
        assert_eq!(kernel.borrow().maps().unwrap().slots(), SLOTS_PER_GROUP);
    }

    #[test]
    fn calls_fail_as_they_are_told_to_and_count_for_nothing() {
        let mut handle = agent();
        let entry = entry(PEER);
        let before = handle.effects();
        let refuse = |call: &Call| match call {
            Call::InsertSession(_) | Call::DeleteSession(_) => Some(Errno::EBUSY),
            Call::Control(..) | Call::Transmit(_) => Some(Errno::EINTR),
            Call::ReadSessions => Some(Errno::ENOMEM),
            _ => None,
        };
        let kernel = Rc::clone(handle.kernel());
        kernel.borrow_mut().set_refuse(Some(Box::new(refuse)));
        let error = handle.insert_session(&entry).unwrap_err().to_string();
        assert!(error.contains("bpf_map_update_elem"), "{error}");
        assert!(handle.delete_session(&entry.key).is_err());
        assert!(matches!(handle.sessions(), Err(MapError::Batch(_))));
        let error = handle.control(&disconnect(&entry)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINTR));
        let asked = handle.transmit(&[order(&entry, false)], |_, _| panic!("not run"));
        assert!(asked.is_err());
        assert_eq!(handle.effects(), before);

        kernel.borrow_mut().set_refuse(None);
        open(&mut handle, &entry).unwrap();
        handle.delete_session(&entry.key).unwrap();
        handle.delete_session(&entry.key).unwrap();
    }

    #[test]
    fn orders_have_their_outcomes_in_their_order() {
        let mut handle = agent();
        let entry = entry(PEER);
        open(&mut handle, &entry).unwrap();
        let gone = Order {
            generation: 99,
            ..order(&entry, true)
        };
        let mut orders = vec![gone; 299];
        orders.push(order(&entry, true));
        let before = handle.effects();
        let mut exits = Vec::new();
        handle
            .transmit(&orders, |_, outcome| exits.push(outcome.exit))
            .unwrap();
        assert_eq!(handle.effects(), before + 2, "256 fit into a run");
        let (last, others) = exits.split_last().unwrap();
        assert_eq!(*last, Some(Counter::TxOriginated));
        assert!(
            others
                .iter()
                .all(|exit| *exit == Some(Counter::TxNoSession))
        );
        assert_eq!(others.len(), 299);
    }

    /// Two machines with a session to each other.
    fn pair() -> [Handle; 2] {
        let [a, b] = [(1_u8, 2_u8), (2, 1)].map(|(ours, theirs)| {
            let mut handle = agent();
            let mut entry = entry([10, 0, 0, theirs]);
            entry.key.local = [10, 0, 0, ours];
            entry.session.local_discr = u32::from(ours) + 0x1000;
            open(&mut handle, &entry).unwrap();
            handle
        });
        [a, b]
    }

    /// Lets time pass, with every frame delivered at once if `wired`.
    fn pass(handles: &mut [Handle; 2], until_ns: u64, wired: bool) {
        const STEP_NS: u64 = 10_000_000;
        let mut now_ns = handles[0].now_ns();
        while now_ns < until_ns {
            now_ns += STEP_NS;
            for handle in handles.iter_mut() {
                handle.kernel().borrow_mut().set_now_ns(now_ns);
                handle.kernel().borrow_mut().run_timers();
                handle.beat(now_ns);
                let sessions = handle.sessions().unwrap();
                let due = sessions.iter().filter(|entry| {
                    let later = handle.not_due_before(entry.slot, now_ns);
                    later.is_none()
                });
                let orders: Vec<_> = due.map(|entry| order(entry, false)).collect();
                handle.transmit(&orders, |_, _| ()).unwrap();
            }
            for _ in 0..4 {
                for [from, to] in [[0, 1], [1, 0]] {
                    let frames = handles[from].kernel().borrow_mut().take_frames();
                    for (ifindex, frame) in frames.into_iter().filter(|_| wired) {
                        handles[to].kernel().borrow_mut().receive(ifindex, &frame);
                    }
                }
            }
        }
    }

    fn states(handles: &[Handle; 2]) -> [State; 2] {
        let state = |handle: &Handle| handle.sessions().unwrap()[0].session.state;
        [state(&handles[0]), state(&handles[1])]
    }

    #[test]
    fn two_machines_come_up_and_notice_that_the_wire_is_cut() {
        let mut handles = pair();
        pass(&mut handles, NOW_NS + 3_000_000_000, true);
        assert_eq!(states(&handles), [State::Up; 2]);
        pass(&mut handles, NOW_NS + 60_000_000_000, true);
        assert_eq!(states(&handles), [State::Up; 2]);
        for handle in &mut handles {
            let mut last = None;
            while let Some(event) = handle.next_event() {
                last = Some(event.unwrap());
            }
            assert_eq!(last.unwrap().to, State::Up);
            let counters = handle.counters(1).unwrap();
            let sent = counters.rx_answered + counters.tx_originated;
            assert!((57..=85).contains(&sent), "{sent} packets in a minute");
        }

        pass(&mut handles, NOW_NS + 64_000_000_000, false);
        assert_eq!(states(&handles), [State::Down; 2]);
        for handle in &mut handles {
            let event = handle.next_event().unwrap().unwrap();
            assert_eq!((event.to, event.reason), (State::Down, DownReason::Timeout));
            assert_eq!(handle.counters(0).unwrap().timer_failed, 0);
        }
        pass(&mut handles, NOW_NS + 75_000_000_000, true);
        assert_eq!(states(&handles), [State::Up; 2]);
    }
}
