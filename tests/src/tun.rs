//! A TUN device as a layer-3 wire: what the host sends into it the test reads, and what the test
//! writes the host receives. What is not forwarded is lost; what is forwarded later is delayed.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, ensure};

use crate::netns::Netns;
use crate::receive::Receive;

/// As a GRE tunnel over an MTU of 1500 has it.
pub const MTU: u32 = 1476;
/// Longer than any packet.
const PACKET: usize = 2048;

/// A TUN device and the test's end of it. The device is gone after the drop.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    ifindex: u32,
}

impl Tun {
    /// Creates the device, sets it up and gives it the addresses (`169.254.7.1/31`), with scope
    /// link for those of 169.254.0.0/16 as the deployed client does.
    ///
    /// # Errors
    /// No /dev/net/tun, no privilege, or `ip` refuses.
    pub fn new(netns: &Netns, name: &str, addresses: &[&str]) -> anyhow::Result<Self> {
        let file = netns
            .run(|| open(name))
            .with_context(|| format!("creating TUN device {name}"))?;
        netns.ip(&format!("link set {name} mtu {MTU}"))?;
        // No IPv6 link-local address: nothing is sent that the test has not caused.
        netns.ip(&format!("link set {name} addrgenmode none"))?;
        for address in addresses {
            let scope = if address.starts_with("169.254.") {
                " scope link"
            } else {
                ""
            };
            netns.ip(&format!("address add {address} dev {name}{scope}"))?;
        }
        netns.ip(&format!("link set {name} up"))?;
        Ok(Self {
            file,
            name: name.to_owned(),
            ifindex: netns.ifindex(name)?,
        })
    }

    /// Index of the device.
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Lets the host receive a packet that starts with an IP header.
    ///
    /// # Errors
    /// The device is down, or the packet is no IP packet at all (the driver looks at its version).
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let written = (&self.file).write(packet)?;
        if written == packet.len() {
            Ok(())
        } else {
            Err(ErrorKind::WriteZero.into())
        }
    }
}

impl Receive for Tun {
    fn name(&self) -> &str {
        &self.name
    }

    fn try_recv(&self) -> io::Result<Option<Vec<u8>>> {
        let mut packet = vec![0; PACKET];
        match (&self.file).read(&mut packet) {
            Ok(len) => {
                packet.truncate(len);
                Ok(Some(packet))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

nix::ioctl_write_int!(
    /// `TUNSETIFF` of the kernel's `if_tun.h`: makes the open file the device of a name.
    tun_set_iff,
    b'T',
    202
);

fn open(name: &str) -> anyhow::Result<File> {
    // SAFETY: all zeros is a valid `ifreq`: numbers and byte arrays only.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(name.len() < request.ifr_name.len(), "the name is too long");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).context("the flags fit")?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    let pointer = std::ptr::from_ref(&request) as libc::c_ulong;
    // SAFETY: the request is a valid `ifreq`, which the kernel reads and writes during the call.
    unsafe { tun_set_iff(file.as_raw_fd(), pointer) }?;
    Ok(file)
}
