//! What the agent holds of an interface: its name, our programs on it, its liveness port.

use std::io;

use super::guard::Guard;
use crate::datapath::Attachment;
use crate::host::lock::{InterfaceLock, LockError};
use crate::view::InterfaceView;

/// What we hold of one interface.
pub(crate) struct Holding {
    name: String,
    /// Held for the life of the agent, before the interface exists.
    _lock: InterfaceLock,
    attached: Option<(Attachment, Guard)>,
}

impl Holding {
    /// Takes the name of an interface, which need not exist yet.
    ///
    /// # Errors
    /// Another agent has it.
    pub(crate) fn take(name: &str) -> Result<Self, LockError> {
        Ok(Self {
            name: name.to_owned(),
            _lock: InterfaceLock::acquire(name)?,
            attached: None,
        })
    }

    /// Notes that our programs are on it.
    pub(super) fn attached(&mut self, attachment: Attachment, guard: Guard) {
        self.attached = Some((attachment, guard));
    }

    /// Takes its liveness port, if that is wanted, not ours yet, and free.
    pub(crate) fn keep_port(&mut self, port: u16) {
        if let Some((_, guard)) = &mut self.attached {
            guard.keep(&self.name, port);
        }
    }

    /// Takes our programs off it, if they are on it, and leaves its port to others.
    ///
    /// # Errors
    /// The kernel keeps a program or a pin.
    pub(crate) fn detach(&mut self) -> io::Result<()> {
        let attached = self.attached.take();
        attached.map_or(Ok(()), |(attachment, _)| attachment.detach())
    }

    /// Shows the interface with what is held of it.
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
