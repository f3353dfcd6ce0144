//! Interfaces: each has an index of its own that is never given again.

use std::collections::BTreeMap;

use dz_common::ingress::Link;
use nix::errno::Errno;

use crate::net::links::{Interface, Tunnel, Unsuitable};

/// Index of the loopback interface.
pub(super) const LOOPBACK: u32 = 1;

/// What an interface is made as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What its driver calls itself.
    pub kind: String,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// What its frames start with, or why it cannot be served.
    pub link: Result<Link, Unsuitable>,
    /// The outer addresses of a GRE tunnel.
    pub tunnel: Tunnel,
}

impl Shape {
    /// A GRE tunnel between two hosts.
    pub fn gre(tunnel: Tunnel) -> Self {
        Self {
            kind: "gre".to_owned(),
            mtu: 1476,
            mac: None,
            link: match tunnel.remote {
                Some(_) => Ok(Link::Layer3),
                None => Err(Unsuitable::NoRemote),
            },
            tunnel,
        }
    }

    /// An Ethernet device.
    pub fn nic(mac: [u8; 6]) -> Self {
        Self {
            kind: String::new(),
            mtu: 1500,
            mac: Some(mac),
            link: Ok(Link::Ethernet),
            tunnel: Tunnel::default(),
        }
    }

    fn loopback() -> Self {
        Self {
            kind: String::new(),
            mtu: 65_536,
            mac: None,
            link: Err(Unsuitable::Loopback),
            tunnel: Tunnel::default(),
        }
    }
}

/// One interface.
#[derive(Clone, Debug)]
struct Device {
    name: String,
    shape: Shape,
    up: bool,
    carrier: bool,
}

/// All interfaces.
#[derive(Clone, Debug)]
pub(super) struct Links {
    devices: BTreeMap<u32, Device>,
    next: u32,
}

impl Links {
    /// The loopback interface alone, up.
    pub(super) fn new() -> Self {
        let lo = Device {
            name: "lo".to_owned(),
            shape: Shape::loopback(),
            up: true,
            carrier: true,
        };
        Self {
            devices: BTreeMap::from([(LOOPBACK, lo)]),
            next: LOOPBACK + 1,
        }
    }

    /// Makes an interface, down.
    ///
    /// # Errors
    /// The name is taken (`EEXIST`).
    pub(super) fn create(&mut self, name: &str, shape: Shape) -> Result<u32, Errno> {
        if self.ifindex(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let ifindex = self.next;
        self.next += 1;
        let device = Device {
            name: name.to_owned(),
            shape,
            up: false,
            carrier: true,
        };
        self.devices.insert(ifindex, device);
        Ok(ifindex)
    }

    /// Deletes an interface.
    pub(super) fn delete(&mut self, ifindex: u32) {
        self.devices.remove(&ifindex);
    }

    /// Gives an interface another name.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`), or the name is taken (`EEXIST`).
    pub(super) fn rename(&mut self, ifindex: u32, name: &str) -> Result<(), Errno> {
        match self.ifindex(name) {
            Some(other) if other != ifindex => Err(Errno::EEXIST),
            _ => {
                name.clone_into(&mut self.device(ifindex)?.name);
                Ok(())
            }
        }
    }

    /// Sets an interface up or down; returns whether it was not so before.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`).
    pub(super) fn set_up(&mut self, ifindex: u32, up: bool) -> Result<bool, Errno> {
        let device = self.device(ifindex)?;
        Ok(std::mem::replace(&mut device.up, up) != up)
    }

    /// Gives an interface its carrier, or takes it away; returns whether it was not so before.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`).
    pub(super) fn set_carrier(&mut self, ifindex: u32, carrier: bool) -> Result<bool, Errno> {
        let device = self.device(ifindex)?;
        Ok(std::mem::replace(&mut device.carrier, carrier) != carrier)
    }

    /// Gives an interface another Ethernet address.
    ///
    /// # Errors
    /// There is no such interface (`ENODEV`), or it has none (`EOPNOTSUPP`).
    pub(super) fn set_mac(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<(), Errno> {
        let own = &mut self.device(ifindex)?.shape.mac;
        *own.as_mut().ok_or(Errno::EOPNOTSUPP)? = mac;
        Ok(())
    }

    fn device(&mut self, ifindex: u32) -> Result<&mut Device, Errno> {
        self.devices.get_mut(&ifindex).ok_or(Errno::ENODEV)
    }

    /// Returns the index of the interface with a name.
    pub(super) fn ifindex(&self, name: &str) -> Option<u32> {
        let mut devices = self.devices.iter();
        let (ifindex, _) = devices.find(|(_, device)| device.name == name)?;
        Some(*ifindex)
    }

    /// Returns whether an interface is up; none if there is no such one.
    pub(super) fn is_up(&self, ifindex: u32) -> Option<bool> {
        Some(self.devices.get(&ifindex)?.up)
    }

    /// Returns whether an interface has neighbours with Ethernet addresses.
    pub(super) fn is_ethernet(&self, ifindex: u32) -> bool {
        let device = self.devices.get(&ifindex);
        device.is_some_and(|device| device.shape.mac.is_some())
    }

    /// Describes an interface as the kernel does.
    pub(super) fn interface(&self, ifindex: u32) -> Option<Interface> {
        let device = self.devices.get(&ifindex)?;
        let shape = device.shape.clone();
        Some(Interface {
            ifindex,
            name: device.name.clone(),
            kind: shape.kind,
            up: device.up,
            running: device.up && device.carrier,
            mtu: shape.mtu,
            mac: shape.mac,
            controller: None,
            link: shape.link,
            tunnel: shape.tunnel,
            vrf: None,
            xdp: None,
        })
    }

    /// Returns the indices of all interfaces, in their order.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.devices.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_given_once() {
        let mut links = Links::new();
        let shape = Shape::nic([2, 0, 0, 0, 0, 1]);
        assert_eq!(links.create("eth0", shape.clone()), Ok(2));
        assert_eq!(links.create("eth0", shape.clone()), Err(Errno::EEXIST));
        links.delete(2);
        assert_eq!(links.create("eth0", shape), Ok(3));
        assert_eq!(links.ifindex("eth0"), Some(3));
        assert_eq!(links.rename(3, "lo"), Err(Errno::EEXIST));
        assert_eq!(links.rename(3, "eth1"), Ok(()));
        assert_eq!(links.rename(2, "eth2"), Err(Errno::ENODEV));
        assert_eq!(links.interface(3).expect("eth1").name, "eth1");
    }

    #[test]
    fn who_runs_is_up_and_has_a_carrier() {
        let mut links = Links::new();
        let tunnel = Shape::gre(Tunnel::default());
        let ifindex = links.create("gre1", tunnel).expect("created");
        let running = |links: &Links| links.interface(ifindex).expect("gre1").running;
        assert!(!running(&links));
        assert_eq!(links.set_up(ifindex, true), Ok(true));
        assert_eq!(links.set_up(ifindex, true), Ok(false));
        assert!(running(&links));
        assert_eq!(links.set_carrier(ifindex, false), Ok(true));
        assert!(!running(&links));
        let link = links.interface(ifindex).expect("gre1").link;
        assert_eq!(link, Err(Unsuitable::NoRemote));
    }
}
