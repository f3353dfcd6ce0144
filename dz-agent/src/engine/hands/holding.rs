//! The agent's hold on an interface: the lock on its name, our programs on it, and its liveness port.

use std::io;
use std::path::Path;

use super::Kept;
use super::guard::Guard;
use super::pins::remove_pins_of;
use crate::datapath::{Attachment, Datapath, Device, Place, filters};
use crate::host::lock::{InterfaceLock, LockError};
use crate::net::{Netlink, NetlinkError, links};
use crate::view::{InterfaceView, ProgramView};

/// The hold on one interface.
pub(crate) struct Holding {
    name: String,
    /// Held from before the interface exists until the agent ends.
    _lock: InterfaceLock,
    attached: Option<(Attachment, Guard)>,
    /// How often a program was put back to its place, at ingress and the gate.
    mended: [u64; 2],
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
            mended: [0; 2],
        })
    }

    /// Notes that our programs are on the interface.
    pub(super) fn attached(&mut self, attachment: Attachment, guard: Guard) {
        self.attached = Some((attachment, guard));
    }

    /// Looks where the programs are on the interface with this index, and puts right what others have changed.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub(super) async fn keep_programs(
        &mut self,
        datapath: &mut Datapath,
        netlink: &Netlink,
        ifindex: u32,
    ) -> Result<Kept, NetlinkError> {
        // Read now: the programs may have been attached since the interface was.
        let found = links::by_name(netlink, &self.name).await?;
        // Another one by now is not the one that is served, and has a notification of its own.
        let found = found.filter(|found| found.ifindex == ifindex);
        let (Some(interface), Some((attachment, _))) = (&found, &mut self.attached) else {
            return Ok(Kept::default());
        };
        let filters = match datapath.has_tcx() {
            true => Default::default(),
            false => filters::chains(netlink, ifindex).await?,
        };
        let device = Device {
            interface,
            filters: &filters,
        };
        let before = attachment.places().map(|(_, place)| place.clone());
        let mended = datapath.keep(attachment, &device);
        let places = attachment.places();
        for ((hook, _), count) in places.iter().zip(&mut self.mended) {
            let of_hook = mended.iter().filter(|mended| mended.hook == *hook);
            *count += of_hook.count() as u64;
        }
        let now = places.iter().zip(before);
        let changed = now.filter(|((_, now), before)| **now != *before);
        Ok(Kept {
            changed: changed
                .map(|((hook, place), _)| (*hook, (*place).clone()))
                .collect(),
            mended,
        })
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

    /// Detaches, and removes the pins of the interface: also of a device that is gone, or that could not be attached to.
    ///
    /// # Errors
    /// As of [`Self::detach`].
    pub(super) fn let_go(&mut self, pin_dir: &Path) -> io::Result<()> {
        self.detach()?;
        remove_pins_of(pin_dir, &self.name)
    }

    fn programs(&self, attachment: &Attachment) -> Vec<ProgramView> {
        let places = attachment.places().into_iter().zip(self.mended);
        let view = |((hook, place), mended): ((&'static str, &Place), u64)| ProgramView {
            hook,
            mended,
            before: match place {
                Place::Behind(others) => *others,
                Place::First | Place::Missing(_) => 0,
            },
            missing: match place {
                Place::Missing(why) => Some(why.clone()),
                Place::First | Place::Behind(_) => None,
            },
        };
        places.map(view).collect()
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
            programs: self.programs(attachment),
            ..view
        }
    }
}
