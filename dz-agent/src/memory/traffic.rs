//! Packets: those that come in, those that our clock sends, and those that pass the gate.

use dz_common::headers::ETHERNET_LEN;
use dz_common::ingress::Link;
use dz_common::map::Due;

use super::kernel::Kernel;
use super::maps::BpfMaps;
use super::programs::gate::{self, Gate, Leaving};
use super::programs::receive::{self, Arrival, Verdict};
use super::programs::transmit::{self, Outgoing};
use crate::datapath::AttachMode;

impl Kernel {
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
        if let Verdict::Answer { frame } = &verdict {
            let ifindex = work.ifindex();
            match self.attached.get(&ifindex) {
                // XDP_TX passes no queue, and so no gate.
                Some(AttachMode::Xdp | AttachMode::XdpGeneric) => {
                    self.outbox.push((ifindex, frame.clone()));
                }
                _ => {
                    self.leave(ifindex, frame.clone());
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

    /// Runs the gate over a packet that is about to leave; nothing is sent. Without a gate it passes.
    pub fn gate(&mut self, ifindex: u32, packet: &[u8]) -> Gate {
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
            frame: packet,
        };
        gate::egress(maps, &leaving)
    }

    /// Takes the frames that have left, and by which interface.
    pub fn take_frames(&mut self) -> Vec<(u32, Vec<u8>)> {
        std::mem::take(&mut self.outbox)
    }

    /// Sends a frame of the transmit program, which has an Ethernet header whatever the device
    /// (`bpf_clone_redirect`).
    fn send(&mut self, maps: &mut BpfMaps, outgoing: Outgoing) -> bool {
        let Outgoing { ifindex, mut frame } = outgoing;
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
    fn leave(&mut self, ifindex: u32, frame: Vec<u8>) {
        self.gate(ifindex, &frame);
        if self.devices.get(&ifindex).is_some_and(|device| device.up) {
            self.outbox.push((ifindex, frame));
        }
    }
}

#[cfg(test)]
mod tests;
