//! One agent process: its calls, which the kernel may refuse, and its death between any two of them.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;

use super::calls::Call;
use super::clock::Sleep;
use super::errors::io_error;
use super::kernel::Kernel;
use crate::datapath::AttachMode;

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

    /// Says whether programs of ours are on an interface.
    #[must_use]
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.kernel.borrow().attached(ifindex).is_some()
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detach(handle: &Handle) -> Done<()> {
        handle.change(&Call::Detach(1), |kernel| kernel.detach(1))
    }

    #[test]
    fn a_process_dies_after_its_nth_effect() {
        for last in 0..3 {
            let handle = Handle::new(&Kernel::shared());
            handle.die_after(last);
            for effects in 0..5 {
                assert_eq!(handle.is_alive(), effects < last);
                let made = matches!(detach(&handle), Done::Made(()));
                assert_eq!(made, effects < last, "effect {effects} of {last}");
            }
            assert_eq!(handle.effects(), last);
        }
    }

    #[test]
    fn clones_are_the_same_process() {
        let handle = Handle::new(&Kernel::shared());
        let clone = handle.clone();
        assert!(matches!(detach(&clone), Done::Made(())));
        assert_eq!(handle.effects(), 1);
        handle.die_after(0);
        assert!(!clone.is_alive());
    }

    #[test]
    fn what_is_refused_is_no_effect() {
        let handle = Handle::new(&Kernel::shared());
        let refuse = |call: &Call| call.changes().then_some(Errno::ENOMEM);
        let mut kernel = handle.kernel().borrow_mut();
        kernel.set_refuse(Some(Box::new(refuse)));
        drop(kernel);
        assert!(matches!(detach(&handle), Done::Refused(Errno::ENOMEM)));
        assert_eq!(handle.effects(), 0);
        let error = handle.attach(1, AttachMode::Tc).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
        assert!(handle.look(&Call::ReadPeers, |_| ()).is_ok());
    }
}
