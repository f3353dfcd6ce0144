//! The agent's hold on an interface: the lock on its name, our programs on it, and its liveness port.

use std::io;

use super::guard::Guard;
use crate::datapath::Attachment;
use crate::host::lock::{InterfaceLock, LockError};
use crate::view::InterfaceView;

/// The hold on one interface.
pub(crate) struct Holding {
    name: String,
    /// Held from before the interface exists until the agent ends.
    _lock: InterfaceLock,
    attached: Option<(Attachment, Guard)>,
}

impl Holding {
    /// Locks the name of an interface, which need not exist yet.
    ///
    /// # Errors
    /// Another agent has locked it.
    pub(crate) fn take(name: &str) -> Result<Self, LockError> {
        Ok(Self {
            name: name.to_owned(),
            _lock: InterfaceLock::acquire(name)?,
            attached: None,
        })
    }

    /// Notes that our programs are on the interface.
    pub(super) fn attached(&mut self, attachment: Attachment, guard: Guard) {
        self.attached = Some((attachment, guard));
    }

    /// Takes its liveness port, if that is wanted, not ours yet, and free.
    pub(crate) fn keep_port(&mut self, port: u16) {
        if let Some((_, guard)) = &mut self.attached {
            guard.keep(&self.name, port);
        }
    }

    /// Takes our programs off the interface, if they are on it, and gives its liveness port up.
    ///
    /// # Errors
    /// The kernel keeps a program or a pin.
    pub(crate) fn detach(&mut self) -> io::Result<()> {
        let attached = self.attached.take();
        attached.map_or(Ok(()), |(attachment, _)| attachment.detach())
    }

    /// Adds attach mode and port guard to the interface's view.
    pub(crate) fn show(&self, view: InterfaceView) -> InterfaceView {
        let Some((attachment, guard)) = &self.attached else {
            return view;
        };
        InterfaceView {
            attach: Some(attachment.mode().to_string()),
            tc: Some(attachment.tc().to_owned()),
            attach_reason: Some(attachment.why().to_owned()),
            port_guard: Some(guard.view()),
            ..view
        }
    }
}
