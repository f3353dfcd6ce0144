//! Chooses between TC and XDP for an interface, as `--attach` says.
//!
//! An answer in XDP (`XDP_TX`) leaves by a queue of the device's driver, and not every driver sends it
//! by itself. A veth hands it to the far end's driver, which drops it unless somebody has put an XDP
//! program there; a bond hands it to one of its devices; bridges and VLANs have no XDP of their own. So
//! `auto` is TC, which works everywhere, but on devices that are known. The kernel's list of features
//! (`NETDEV_XDP_ACT_*`, since Linux 6.3) is not asked: it has `XDP_TX` in one bit with all else, set on
//! a veth, too, and on hardware that did not have it (`fec` before Linux 6.6).

use std::io;

use dz_common::ingress::Link;

use super::hook::AttachMode;
use crate::error::{ExitCode, Failure};
use crate::net::driver;
use crate::net::links::Interface;
use crate::settings::Attach;

/// Drivers of hardware that has queues of its own for packets sent by XDP, in all kernels since 6.1, by
/// the names that `ethtool -i` shows.
const KNOWN: [&str; 10] = [
    "bnxt_en",
    "ena",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx4_en",
    "mlx5_core",
    "virtio_net",
];

/// The attach modes to try, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The modes to try, in this order.
    pub(super) modes: &'static [AttachMode],
    /// Why, for people.
    pub(super) why: String,
}

impl Choice {
    fn tc(why: impl Into<String>) -> Self {
        Self {
            modes: &[AttachMode::Tc],
            why: why.into(),
        }
    }
}

/// Chooses how to attach to an interface, whose frames start as `link` says.
///
/// # Errors
/// [`ExitCode::Interface`] if XDP is asked for where there is none. The caller names the interface.
pub fn choose(wanted: Attach, interface: &Interface, link: Link) -> Result<Choice, Failure> {
    let asked = |modes| Choice {
        modes,
        why: "as asked for with --attach".to_owned(),
    };
    match wanted {
        Attach::Tc => Ok(asked(&[AttachMode::Tc])),
        Attach::Xdp | Attach::XdpGeneric if link == Link::Layer3 => Err(Failure::new(
            ExitCode::Interface,
            "XDP needs Ethernet frames and this is a layer-3 device: use --attach tc",
        )),
        Attach::Xdp => Ok(asked(&[AttachMode::Xdp])),
        Attach::XdpGeneric => Ok(asked(&[AttachMode::XdpGeneric])),
        Attach::Auto => Ok(automatic(interface, link, driver::name)),
    }
}

fn automatic(
    interface: &Interface,
    link: Link,
    driver: impl FnOnce(&str) -> io::Result<String>,
) -> Choice {
    if link == Link::Layer3 {
        return Choice::tc("XDP needs Ethernet frames and this is a layer-3 device");
    }
    // Only what is made of other devices or of none at all has a kind.
    if !interface.kind.is_empty() {
        return Choice::tc(format!(
            "a {} device does not send XDP's answers by itself",
            interface.kind
        ));
    }
    if interface.controller.is_some() {
        // XDP does not know which Ethernet address is ours, and a port has frames for others.
        return Choice::tc("it is part of another interface (bridge, bond)");
    }
    match driver(&interface.name) {
        Ok(driver) if KNOWN.contains(&driver.as_str()) => Choice {
            modes: &[AttachMode::Xdp, AttachMode::Tc],
            why: format!("driver {driver} sends XDP's answers by itself"),
        },
        Ok(driver) => Choice::tc(format!(
            "driver {driver} is not known to send XDP's answers by itself"
        )),
        Err(error) => Choice::tc(format!("its driver does not tell its name: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::links::Tunnel;

    fn ethernet(kind: &str) -> Interface {
        Interface {
            ifindex: 7,
            name: "eth7".to_owned(),
            kind: kind.to_owned(),
            up: true,
            running: true,
            mtu: 1500,
            mac: Some([2, 0, 0, 0, 0, 7]),
            controller: None,
            link: Ok(Link::Ethernet),
            tunnel: Tunnel::default(),
            vrf: None,
            xdp: None,
        }
    }

    /// What is chosen for a device without a kind and with this driver.
    fn by_driver(name: &str) -> Choice {
        automatic(&ethernet(""), Link::Ethernet, |asked| {
            assert_eq!(asked, "eth7");
            Ok(name.to_owned())
        })
    }

    fn not_asked(_: &str) -> io::Result<String> {
        panic!("the driver is asked");
    }

    #[test]
    fn hardware_that_sends_by_itself_has_xdp() {
        for name in ["mlx5_core", "ixgbe", "i40e", "ice", "ena", "virtio_net"] {
            let choice = by_driver(name);
            assert_eq!(choice.modes, [AttachMode::Xdp, AttachMode::Tc], "{name}");
            assert!(choice.why.contains(name), "{}", choice.why);
        }
    }

    #[test]
    fn whoever_is_refused_names_the_interface() {
        let refused = choose(Attach::Xdp, &ethernet(""), Link::Layer3);
        let said = refused.unwrap_err().to_string();
        assert!(said.starts_with("XDP needs Ethernet"), "{said}");
    }

    #[test]
    fn everything_else_has_tc() {
        // `mlx5e_rep`: a port of a switch inside the card.
        for name in ["mlx5e_rep", "e1000e", "r8169", "fec", "tun", "veth", ""] {
            assert_eq!(by_driver(name).modes, [AttachMode::Tc], "{name}");
        }
        let silent = |_: &str| Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        let choice = automatic(&ethernet(""), Link::Ethernet, silent);
        assert_eq!(choice.modes, [AttachMode::Tc]);
    }

    #[test]
    fn virtual_devices_are_not_asked() {
        for kind in [
            "veth",
            "bond",
            "bridge",
            "vlan",
            "macvlan",
            "ipvlan",
            "tun",
            "dummy",
            "vxlan",
            "gretap",
            "ifb",
            "team",
            "vrf",
            "netdevsim",
        ] {
            let choice = automatic(&ethernet(kind), Link::Ethernet, not_asked);
            assert_eq!(choice.modes, [AttachMode::Tc], "{kind}");
            assert!(choice.why.contains(kind), "{}", choice.why);
        }
        let choice = automatic(&ethernet("gre"), Link::Layer3, not_asked);
        assert_eq!(choice.modes, [AttachMode::Tc]);
        let port = Interface {
            controller: Some(3),
            ..ethernet("")
        };
        let choice = automatic(&port, Link::Ethernet, not_asked);
        assert_eq!(choice.modes, [AttachMode::Tc]);
    }

    #[test]
    fn what_is_asked_for_is_tried_alone() {
        let (veth, tun) = (ethernet("veth"), ethernet("tun"));
        for (wanted, mode) in [
            (Attach::Tc, AttachMode::Tc),
            (Attach::Xdp, AttachMode::Xdp),
            (Attach::XdpGeneric, AttachMode::XdpGeneric),
        ] {
            let choice = choose(wanted, &veth, Link::Ethernet).unwrap();
            assert_eq!(choice.modes, [mode]);
            let refused = choose(wanted, &tun, Link::Layer3);
            assert_eq!(refused.is_ok(), mode == AttachMode::Tc, "{refused:?}");
        }
    }
}
