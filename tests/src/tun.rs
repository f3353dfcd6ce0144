//! A TUN device as a layer-3 wire: what the host sends into it the test reads, and what the test
//! writes the host receives. What is not forwarded is lost; what is forwarded later is delayed.
//!
//! With `DZ_TEST_TUNNEL=gre` in the environment the wire is a GRE tunnel of the host's kernel, as
//! `doublezero0` is one in production. The test holds the device below it, and takes off and puts on
//! what the tunnel does: a packet that is not well encapsulated is a panic.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;

use crate::gre::{self, Ends};
use crate::netns::{Netns, run_in};
use crate::receive::Receive;
use crate::wait::eventually;

/// As a GRE tunnel over an MTU of 1500 has it.
pub const MTU: u32 = 1476;
const UNDERLAY_MTU: u32 = 1500;
/// How long a device's name may stay taken after its end.
const HELD: Duration = Duration::from_secs(30);
/// Longer than any packet.
const PACKET: usize = 2048;

/// What [`Tun`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TUN device: every kernel has it.
    Tun,
    /// A GRE tunnel over a TUN device.
    Gre,
}

impl Kind {
    /// As `DZ_TEST_TUNNEL` says: `tun` (the default) or `gre`.
    ///
    /// # Errors
    /// It says something else.
    pub fn wanted() -> anyhow::Result<Self> {
        match env::var("DZ_TEST_TUNNEL").as_deref() {
            Err(_) | Ok("tun") => Ok(Self::Tun),
            Ok("gre") => Ok(Self::Gre),
            Ok(other) => bail!("DZ_TEST_TUNNEL={other}: neither tun nor gre"),
        }
    }
}

/// The device and the test's end of it. The device is gone after the drop.
#[derive(Debug)]
pub struct Tun {
    /// The TUN device: what the host uses, or what its tunnel lies on.
    file: File,
    name: String,
    ifindex: u32,
    tunnel: Option<Tunnel>,
}

/// A GRE tunnel, deleted with the drop.
#[derive(Debug)]
struct Tunnel {
    ends: Ends,
    netns: File,
    name: String,
}

impl Tun {
    /// Creates the device, sets it up and gives it the addresses (`169.254.7.1/31`), with scope
    /// link for those of 169.254.0.0/16 as the deployed client does.
    ///
    /// # Errors
    /// No /dev/net/tun, no privilege, no GRE where it is wanted, or `ip` refuses.
    pub fn new(netns: &Netns, name: &str, addresses: &[&str]) -> anyhow::Result<Self> {
        let (file, tunnel) = match Kind::wanted()? {
            Kind::Tun => (device(netns, name, MTU)?, None),
            Kind::Gre => {
                let (file, tunnel) = gre(netns, name)?;
                (file, Some(tunnel))
            }
        };
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
            tunnel,
        })
    }

    /// Index of the device.
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Lets the host receive a packet that starts with an IP header.
    ///
    /// # Errors
    /// The device is down, or the packet is no IP packet at all (the driver looks at its version). A
    /// tunnel that is down loses what is sent.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        match &self.tunnel {
            Some(tunnel) => self.write(&tunnel.ends.wrap_back(packet)?),
            None => self.write(packet),
        }
    }

    fn write(&self, packet: &[u8]) -> io::Result<()> {
        let written = (&self.file).write(packet)?;
        if written == packet.len() {
            Ok(())
        } else {
            Err(ErrorKind::WriteZero.into())
        }
    }

    fn read(&self) -> io::Result<Option<Vec<u8>>> {
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

impl Receive for Tun {
    fn name(&self) -> &str {
        &self.name
    }

    /// # Panics
    /// The host has sent something that its tunnel should not have, or not in this way.
    fn try_recv(&self) -> io::Result<Option<Vec<u8>>> {
        while let Some(packet) = self.read()? {
            let Some(Tunnel { ends, name, .. }) = &self.tunnel else {
                return Ok(Some(packet));
            };
            match ends.unwrap(&packet) {
                Ok(inner) => return Ok(Some(inner.to_vec())),
                Err(_) if ends.refuses(&packet) => {}
                Err(wrong) => panic!("below {name}: {wrong:#}: {packet:02x?}"),
            }
        }
        Ok(None)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut delete = Command::new("ip");
        delete.args(["link", "delete", &self.name]);
        // A test may have deleted it already.
        let _ = run_in(&self.netns, || delete.stderr(Stdio::null()).status());
    }
}

/// A GRE tunnel with addresses that no test uses, down, and the device below it.
fn gre(netns: &Netns, name: &str) -> anyhow::Result<(File, Tunnel)> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Of the range for carriers' own devices, 100.64.0.0/10.
    let base = u32::from_be_bytes([100, 64, 0, 0]);
    let local = base + 2 * u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
    let ends = Ends {
        local: Ipv4Addr::from(local),
        remote: Ipv4Addr::from(local + 1),
    };
    let below = format!("u-{name}");
    let file = device(netns, &below, UNDERLAY_MTU)?;
    let Ends { local, remote } = ends;
    netns.ip(&format!("address add {local}/31 dev {below}"))?;
    // A tunnel has no queue of its own: a burst of a thousand sessions must fit into this one.
    netns.ip(&format!("link set {below} txqueuelen 10000 up"))?;
    let ttl = gre::TTL;
    netns.ip(&format!(
        "link add {name} type gre local {local} remote {remote} ttl {ttl}"
    ))?;
    let tunnel = Tunnel {
        ends,
        netns: netns.hold()?,
        name: name.to_owned(),
    };
    netns.ip(&format!("link set {name} addrgenmode none"))?;
    let shown = netns.ip(&format!("-o link show {name}"))?;
    ensure!(shown.contains(&format!("mtu {MTU} ")), "{shown}");
    Ok((file, tunnel))
}

/// A TUN device, down, on which nothing is sent that the test has not caused: it has no IPv6
/// link-local address.
fn device(netns: &Netns, name: &str, mtu: u32) -> anyhow::Result<File> {
    let file = netns
        .run(|| open(name))
        .with_context(|| format!("creating TUN device {name}"))?;
    netns.ip(&format!("link set {name} mtu {mtu} addrgenmode none"))?;
    Ok(file)
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
    // A process that another test is starting holds a copy of every descriptor between its fork and
    // its exec, also of the one that was the device until a moment ago.
    eventually(HELD, &format!("the name {name}, free"), || {
        // SAFETY: the request is a valid `ifreq`, which the kernel reads and writes during the call.
        match unsafe { tun_set_iff(file.as_raw_fd(), pointer) } {
            Err(Errno::EBUSY) => None,
            ended => Some(ended),
        }
    })??;
    Ok(file)
}
