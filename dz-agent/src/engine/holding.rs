//! What we hold of the interfaces: their names, our programs on them, their liveness ports.

use std::io;

use super::guard::Guard;
use crate::datapath::Attachment;
use crate::host::lock::InterfaceLock;
use crate::view::InterfaceView;

/// What we hold of one interface.
pub(super) struct Holding {
    /// Held for the life of the agent, before the interface exists.
    _lock: InterfaceLock,
    attached: Option<(Attachment, Guard)>,
}

impl Holding {
    /// Makes one of an interface that is waited for. `lock`: its name is ours.
    pub(super) const fn new(lock: InterfaceLock) -> Self {
        Self {
            _lock: lock,
            attached: None,
        }
    }

    /// Notes that our programs are on it.
    pub(super) fn attached(&mut self, attachment: Attachment, guard: Guard) {
        self.attached = Some((attachment, guard));
    }

    /// Takes its liveness port, if that is wanted, not ours yet, and free.
    pub(super) fn keep_port(&mut self, interface: &str, port: u16) {
        if let Some((_, guard)) = &mut self.attached {
            guard.keep(interface, port);
        }
    }

    /// Takes our programs off it, if they are on it, and leaves its port to others.
    ///
    /// # Errors
    /// The kernel keeps a program or a pin.
    pub(super) fn detach(&mut self) -> io::Result<()> {
        let attached = self.attached.take();
        attached.map_or(Ok(()), |(attachment, _)| attachment.detach())
    }

    /// Shows the interface with what is held of it.
    pub(super) fn show(&self, view: InterfaceView) -> InterfaceView {
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
