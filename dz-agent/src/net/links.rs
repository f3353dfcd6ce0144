//! Reads interfaces and their addresses, and finds out whether an interface can be served.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use dz_common::ingress::Link;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoGre, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage, LinkXdp,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::NetlinkError;
use super::netlink::Netlink;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index; it changes when an interface of the same name is created anew.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The kind of its driver (`veth`, `gre`, `tun`); empty for most hardware.
    pub kind: String,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// Able to carry packets (`IFF_RUNNING`).
    pub running: bool,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge, bond or the like that it is a part of, if any.
    pub controller: Option<u32>,
    /// The header that its frames start with, or why it cannot be served.
    pub link: Result<Link, Unsuitable>,
    /// The outer addresses of a GRE tunnel over IPv4.
    pub tunnel: Tunnel,
    /// Index of the VRF device that it belongs to; it has the addresses of that VRF only.
    pub vrf: Option<u32>,
    /// Kernel id of the XDP program on it.
    pub xdp: Option<u32>,
}

/// The outer addresses that a GRE tunnel is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Ours (`IFLA_GRE_LOCAL`).
    pub local: Option<Ipv4Addr>,
    /// The far end's (`IFLA_GRE_REMOTE`).
    pub remote: Option<Ipv4Addr>,
}

/// Why an interface cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    /// The loopback interface.
    #[error("a loopback interface has no peers; name the interface that leads to them")]
    Loopback,
    /// A tunnel without a fixed remote end: its frames start with the outer header.
    #[error("a tunnel without a remote address cannot be served; create it with `remote ADDRESS`")]
    NoRemote,
    /// GRE whose outer header is IPv6.
    #[error(
        "a GRE tunnel over IPv6 (ip6gre) cannot be served; create it with `type gre` between IPv4 \
         addresses"
    )]
    OverIpv6,
    /// Neither Ethernet nor a layer-3 device that we know.
    #[error(
        "its link layer (ARPHRD {arphrd}) is not supported; Ethernet, GRE over IPv4 and TUN are"
    )]
    LinkLayer {
        /// `ARPHRD_*` of the kernel's `if_arp.h`.
        arphrd: u16,
    },
}

/// An IPv4 address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Ours.
    pub local: Ipv4Addr,
    /// Length of its prefix, bits.
    pub prefix_len: u8,
    /// The other end, on a point-to-point interface that was given one.
    pub peer: Option<Ipv4Addr>,
    /// Its `ifa_scope`: 0 for everywhere, 253 for this link, 254 for this host.
    pub scope: u8,
    /// Added after another one of the same prefix (`IFA_F_SECONDARY`).
    pub secondary: bool,
}

impl Address {
    /// A primary address of global scope, without another end.
    #[cfg(any(test, feature = "sim"))]
    pub const fn plain(local: Ipv4Addr, prefix_len: u8) -> Self {
        Self {
            local,
            prefix_len,
            peer: None,
            scope: 0,
            secondary: false,
        }
    }

    /// Returns the subnet that its interface reaches without a gateway, if the subnet has room for more
    /// than the two ends of a link (RFC 3021).
    pub fn subnet(&self) -> Option<Ipv4Net> {
        let within = self.peer.unwrap_or(self.local);
        let subnet = Ipv4Net::new(within, self.prefix_len).ok()?;
        (self.prefix_len <= 30).then(|| subnet.trunc())
    }

    /// Returns the broadcast address of that subnet.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        self.subnet().map(|subnet| subnet.broadcast())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{} peer {peer}/{}", self.local, self.prefix_len),
            None => write!(f, "{}/{}", self.local, self.prefix_len),
        }
    }
}

/// Looks an interface up by name; none if there is none.
///
/// # Errors
/// The kernel could not be asked.
pub async fn by_name(netlink: &Netlink, name: &str) -> Result<Option<Interface>, NetlinkError> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    get(netlink, message).await
}

/// Looks an interface up by index; none if there is none.
///
/// # Errors
/// The kernel could not be asked.
pub async fn by_index(netlink: &Netlink, ifindex: u32) -> Result<Option<Interface>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    get(netlink, message).await
}

/// Reads the IPv4 addresses of every interface: the index, then the address, those of one interface
/// in the kernel's order.
///
/// # Errors
/// The kernel could not be asked, or its addresses kept changing.
pub async fn addresses(netlink: &Netlink) -> Result<Vec<(u32, Address)>, NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    let keep = |message| match message {
        RouteNetlinkMessage::NewAddress(message) => {
            Some((message.header.index, address(&message)?))
        }
        _ => None,
    };
    let request = RouteNetlinkMessage::GetAddress(message);
    netlink.dump(request, keep).await
}

async fn get(netlink: &Netlink, message: LinkMessage) -> Result<Option<Interface>, NetlinkError> {
    match netlink.get(RouteNetlinkMessage::GetLink(message)).await {
        Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Some(interface(&message))),
        Ok(other) => Err(NetlinkError::Unexpected(format!("{other:?}"))),
        Err(cause) if cause.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Reads an address message of the kernel; none if it is not about an IPv4 address.
pub(crate) fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(addr)) => local = Some(*addr),
            AddressAttribute::Address(IpAddr::V4(addr)) => peer = Some(*addr),
            _ => {}
        }
    }
    // IFA_ADDRESS repeats the local address where no peer was given.
    let local = local.or(peer)?;
    let peer = peer.filter(|peer| *peer != local);
    Some(Address {
        local,
        prefix_len: message.header.prefix_len,
        peer,
        scope: message.header.scope.into(),
        secondary: message.header.flags.contains(AddressHeaderFlags::Secondary),
    })
}

/// Reads every interface of this network namespace.
///
/// # Errors
/// The kernel could not be asked.
pub(crate) async fn list(netlink: &Netlink) -> Result<Vec<Interface>, NetlinkError> {
    let keep = |message| match message {
        RouteNetlinkMessage::NewLink(message) => Some(interface(&message)),
        _ => None,
    };
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    netlink.dump(request, keep).await
}

/// Reads a link message of the kernel.
pub(crate) fn interface(message: &LinkMessage) -> Interface {
    let header = &message.header;
    let mut interface = Interface {
        ifindex: header.index,
        name: String::new(),
        kind: String::new(),
        up: header.flags.contains(LinkFlags::Up),
        running: header.flags.contains(LinkFlags::Running),
        mtu: 0,
        mac: None,
        controller: None,
        link: Err(Unsuitable::Loopback),
        tunnel: Tunnel::default(),
        vrf: None,
        xdp: None,
    };
    let (mut gre, mut in_vrf) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Address(bytes) if header.link_layer_type == LinkLayerType::Ether => {
                interface.mac = bytes.as_slice().try_into().ok();
            }
            LinkAttribute::Controller(index) => {
                interface.controller = Some(*index).filter(|index| *index != 0);
            }
            LinkAttribute::Xdp(facts) => {
                interface.xdp = facts.iter().find_map(|fact| match fact {
                    LinkXdp::ProgId(id) => Some(*id).filter(|id| *id != 0),
                    _ => None,
                });
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => interface.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::GreTun(data)) => gre = Some(outer(data)),
                        LinkInfo::PortKind(kind) => in_vrf = *kind == InfoPortKind::Vrf,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    interface.link = link(header.link_layer_type, gre.map(|tunnel| tunnel.remote));
    interface.tunnel = gre.unwrap_or_default();
    interface.vrf = interface.controller.filter(|_| in_vrf);
    interface
}

fn outer(data: &[InfoGre]) -> Tunnel {
    let mut tunnel = Tunnel::default();
    for attribute in data {
        match attribute {
            InfoGre::Local(local) => tunnel.local = Some(*local),
            InfoGre::Remote(remote) => tunnel.remote = Some(*remote),
            _ => {}
        }
    }
    let said = |address: Option<Ipv4Addr>| address.filter(|address| !address.is_unspecified());
    Tunnel {
        local: said(tunnel.local),
        remote: said(tunnel.remote),
    }
}

/// Finds the header that frames start with. `gre`: for a GRE tunnel, the remote end that it is bound to, if any.
fn link(kind: LinkLayerType, gre: Option<Option<Ipv4Addr>>) -> Result<Link, Unsuitable> {
    match (kind, gre) {
        (LinkLayerType::Ether, _) => Ok(Link::Ethernet),
        // The kernel gives one whose remote end is said per packet (`external`) the link layer of
        // TUN: see `ipgre_netlink_parms`.
        (LinkLayerType::Ipgre, None | Some(None)) | (LinkLayerType::None, Some(None)) => {
            Err(Unsuitable::NoRemote)
        }
        (LinkLayerType::None | LinkLayerType::Ipgre, _) => Ok(Link::Layer3),
        (LinkLayerType::Ip6gre, _) => Err(Unsuitable::OverIpv6),
        (LinkLayerType::Loopback, _) => Err(Unsuitable::Loopback),
        (other, _) => Err(Unsuitable::LinkLayer {
            arphrd: other.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::InfoKind;

    use super::*;

    fn gre(kind: LinkLayerType, data: Vec<InfoGre>) -> Result<Link, Unsuitable> {
        let mut message = LinkMessage::default();
        message.header.link_layer_type = kind;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::GreTun),
            LinkInfo::Data(InfoData::GreTun(data)),
        ]));
        let interface = interface(&message);
        assert_eq!(interface.kind, "gre");
        interface.link
    }

    #[test]
    fn gre_needs_a_remote_end() {
        let local = InfoGre::Local(Ipv4Addr::new(192, 0, 2, 1));
        let remote = InfoGre::Remote(Ipv4Addr::new(192, 0, 2, 2));
        let ipgre = |data| gre(LinkLayerType::Ipgre, data);
        assert_eq!(ipgre(vec![local.clone(), remote]), Ok(Link::Layer3));
        let any = InfoGre::Remote(Ipv4Addr::UNSPECIFIED);
        assert_eq!(ipgre(vec![local.clone(), any]), Err(Unsuitable::NoRemote));
        assert_eq!(ipgre(vec![local]), Err(Unsuitable::NoRemote));
        let external = gre(LinkLayerType::None, vec![InfoGre::CollectMetadata]);
        assert_eq!(external, Err(Unsuitable::NoRemote));
    }

    #[test]
    fn other_link_layers_are_named() {
        let refused = link(LinkLayerType::Infiniband, None);
        assert_eq!(refused, Err(Unsuitable::LinkLayer { arphrd: 32 }));
        let refused = link(LinkLayerType::Ip6gre, None);
        assert_eq!(refused, Err(Unsuitable::OverIpv6));
    }
}
