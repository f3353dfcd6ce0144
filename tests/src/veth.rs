//! Pairs of virtual Ethernet devices between two namespaces.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::netns::Netns;
use crate::wait::eventually;

/// One end of a pair, as it is to be.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it lies.
    pub netns: &'a Netns,
    /// Name of the device.
    pub name: &'a str,
    /// Address with prefix length (`10.0.0.1/31`), as `ip address add` takes it; none for an end
    /// that only raw sockets use.
    pub address: Option<&'a str>,
    /// Ethernet address; the kernel's choice if none.
    pub mac: Option<[u8; 6]>,
    /// Queues in each direction: so many CPUs can receive at the same time.
    pub queues: usize,
}

impl<'a> End<'a> {
    /// An end with an address and an Ethernet address of the kernel's choice.
    pub const fn new(netns: &'a Netns, name: &'a str, address: &'a str) -> Self {
        Self {
            netns,
            name,
            address: Some(address),
            mac: None,
            queues: 1,
        }
    }

    fn options(&self, kind: &str) -> String {
        let mac = self
            .mac
            .map(|mac| format!(" address {}", mac_text(mac)))
            .unwrap_or_default();
        let (name, queues, netns) = (self.name, self.queues, self.netns.name());
        format!("{name}{mac} numtxqueues {queues} numrxqueues {queues} netns {netns}{kind}")
    }
}

/// An Ethernet address as `ip` writes it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Creates the pair and waits until both ends carry packets. It is gone with either namespace.
///
/// Transmit checksum offload is off, so that checksums on the wire are complete, and no IPv6
/// link-local address is made, so that nothing is sent that the test has not caused.
///
/// # Errors
/// `ip` or `ethtool` refuses.
pub fn pair(a: &End<'_>, b: &End<'_>) -> anyhow::Result<()> {
    a.netns.ip(&format!(
        "link add {} peer name {}",
        a.options(" type veth"),
        b.options("")
    ))?;
    for end in [a, b] {
        let (netns, name) = (end.netns, end.name);
        netns.command(&format!("ethtool -K {name} tx off"))?;
        netns.ip(&format!("link set {name} addrgenmode none"))?;
        if let Some(address) = end.address {
            netns.ip(&format!("address add {address} dev {name}"))?;
        }
        netns.ip(&format!("link set {name} up"))?;
    }
    for end in [a, b] {
        eventually(Duration::from_secs(30), "a veth with a carrier", || {
            let shown = end.netns.ip(&format!("-o link show {}", end.name)).ok()?;
            shown.contains("LOWER_UP").then_some(())
        })?;
    }
    Ok(())
}

/// The Ethernet address of a device.
///
/// # Errors
/// There is no such device, or it has none.
pub fn mac(netns: &Netns, name: &str) -> anyhow::Result<[u8; 6]> {
    let shown = netns.ip(&format!("-o link show {name}"))?;
    let text = shown
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1);
    let text = text.with_context(|| format!("{name} has no Ethernet address: {shown}"))?;
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    ensure!(
        bytes.len() == 6,
        "{name} has a strange Ethernet address: {text}"
    );
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes);
    Ok(mac)
}
