//! What the agent learns about an interface.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::net::Netlink;
use dz_agent::net::driver;
use dz_agent::net::links::{self, Address, Interface, Tunnel, Unsuitable};
use dz_common::ingress::Link;
use dz_tests::harness::{Requirement::LinkKind, Requirement::Root, Requirement::Tun, Test};
use dz_tests::netns::Netns;
use dz_tests::wait::eventually;

/// For what the kernel does soon, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

fn by_name(netns: &Netns, name: &str) -> Result<Interface> {
    let found =
        netns.block_on(|| async { anyhow::Ok(links::by_name(&Netlink::open()?, name).await?) })?;
    found.with_context(|| format!("no interface {name}"))
}

fn addresses(netns: &Netns, ifindex: u32) -> Result<Vec<Address>> {
    let all: Vec<(u32, Address)> =
        netns.block_on(|| async { anyhow::Ok(links::addresses(&Netlink::open()?).await?) })?;
    let of_this = all.into_iter().filter(|(index, _)| *index == ifindex);
    Ok(of_this.map(|(_, address)| address).collect())
}

fn an_ethernet_interface() -> Result<()> {
    let netns = Netns::new("links")?;
    netns.ip("link add v0 address 02:00:00:00:00:07 mtu 1400 type veth peer name v1")?;
    let v0 = by_name(&netns, "v0")?;
    let expected = Interface {
        ifindex: netns.ifindex("v0")?,
        name: "v0".to_owned(),
        kind: "veth".to_owned(),
        up: false,
        running: false,
        mtu: 1400,
        mac: Some([2, 0, 0, 0, 0, 7]),
        controller: None,
        link: Ok(Link::Ethernet),
        tunnel: Tunnel::default(),
        vrf: None,
        xdp: None,
    };
    ensure!(v0 == expected, "{v0:?}");
    netns.ip("link set v0 up")?;
    // The kernel says what becomes of a carrier a moment later (`linkwatch_event`).
    let until = |running: bool| {
        eventually(PATIENCE, "the carrier", || {
            let v0 = by_name(&netns, "v0")?;
            ensure!(v0.up && v0.running == running, "running {running}: {v0:?}");
            Ok(v0)
        })
    };
    let v0 = until(false)?;
    netns.ip("link set v1 up")?;
    until(true)?;
    let again = netns
        .block_on(|| async { anyhow::Ok(links::by_index(&Netlink::open()?, v0.ifindex).await?) })?;
    ensure!(again == Some(by_name(&netns, "v0")?), "{again:?}");
    Ok(())
}

fn drivers_tell_their_names() -> Result<()> {
    let netns = Netns::new("links")?;
    netns.ip("link add v0 type veth peer name v1")?;
    netns.ip("tuntap add dev tap0 mode tap")?;
    let name = |interface: &str| netns.run(|| driver::name(interface));
    ensure!(name("v0")? == "veth" && name("tap0")? == "tun");
    ensure!(name("v9").is_err() && name("sixteen-bytes-xx").is_err());
    // Nothing is known of this one but its name.
    ensure!(name("lo").is_err());
    Ok(())
}

fn a_port_knows_its_bridge() -> Result<()> {
    let netns = Netns::new("links")?;
    netns.ip("link add v0 type veth peer name v1")?;
    netns.ip("link add br0 type bridge")?;
    netns.ip("link set v0 master br0")?;
    let bridge = netns.ifindex("br0")?;
    ensure!(by_name(&netns, "v0")?.controller == Some(bridge));
    netns.ip("link set v0 nomaster")?;
    ensure!(by_name(&netns, "v0")?.controller.is_none());
    Ok(())
}

fn tun_is_layer_3_and_tap_is_ethernet() -> Result<()> {
    let netns = Netns::new("links")?;
    netns.ip("tuntap add dev doublezero0 mode tun")?;
    netns.ip("tuntap add dev tap0 mode tap")?;
    let tun = by_name(&netns, "doublezero0")?;
    ensure!(
        tun.link == Ok(Link::Layer3) && tun.kind == "tun" && tun.mac.is_none(),
        "{tun:?}"
    );
    let tap = by_name(&netns, "tap0")?;
    ensure!(
        tap.link == Ok(Link::Ethernet) && tap.kind == "tun" && tap.mac.is_some(),
        "{tap:?}"
    );
    Ok(())
}

fn gre_needs_a_remote_end() -> Result<()> {
    let netns = Netns::new("links")?;
    netns.ip("link add g0 type gre local 192.0.2.1 remote 192.0.2.2 ttl 64")?;
    netns.ip("link add g1 type gre local 192.0.2.1 remote any")?;
    netns.ip("link add g2 type gre external")?;
    let g0 = by_name(&netns, "g0")?;
    ensure!(g0.link == Ok(Link::Layer3) && g0.kind == "gre", "{g0:?}");
    ensure!(by_name(&netns, "g1")?.link == Err(Unsuitable::NoRemote));
    ensure!(by_name(&netns, "g2")?.link == Err(Unsuitable::NoRemote));
    Ok(())
}

fn loopback_is_refused_and_what_is_not_there_is_not_found() -> Result<()> {
    let netns = Netns::new("links")?;
    ensure!(by_name(&netns, "lo")?.link == Err(Unsuitable::Loopback));
    let (by_name, by_index) = netns.block_on(|| async {
        let netlink = Netlink::open()?;
        let by_name = links::by_name(&netlink, "doublezero0").await?;
        anyhow::Ok((by_name, links::by_index(&netlink, 4711).await?))
    })?;
    ensure!(by_name.is_none() && by_index.is_none());
    ensure!(addresses(&netns, 4711)?.is_empty());
    Ok(())
}

fn addresses_with_prefix_and_peer() -> Result<()> {
    let netns = Netns::new("links")?;
    netns.ip("link add v0 type veth peer name v1")?;
    netns.ip("address add 169.254.7.1/31 dev v0 scope link")?;
    netns.ip("address add 10.1.1.1 peer 10.1.1.2/32 dev v0")?;
    netns.ip("address add 10.9.9.9/32 dev v0")?;
    netns.ip("address add 10.8.8.8/24 dev v1")?;
    netns.ip("address add 169.254.7.9/24 dev v0")?;
    netns.ip("address add 169.254.7.10/24 dev v0")?;
    netns.ip("address add 2001:db8::1/64 dev v0")?;
    let mut found = addresses(&netns, netns.ifindex("v0")?)?;
    found.sort_by_key(|address| address.local);
    let peer = Some(Ipv4Addr::new(10, 1, 1, 2));
    let expected = [
        Address {
            local: Ipv4Addr::new(10, 1, 1, 1),
            prefix_len: 32,
            peer,
            scope: 0,
            secondary: false,
        },
        Address {
            local: Ipv4Addr::new(10, 9, 9, 9),
            prefix_len: 32,
            peer: None,
            scope: 0,
            secondary: false,
        },
        Address {
            local: Ipv4Addr::new(169, 254, 7, 1),
            prefix_len: 31,
            peer: None,
            scope: 253,
            secondary: false,
        },
        Address {
            local: Ipv4Addr::new(169, 254, 7, 9),
            prefix_len: 24,
            peer: None,
            scope: 0,
            secondary: false,
        },
        Address {
            local: Ipv4Addr::new(169, 254, 7, 10),
            prefix_len: 24,
            peer: None,
            scope: 0,
            secondary: true,
        },
    ];
    ensure!(found == expected, "{found:?}");
    Ok(())
}

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("links::ethernet", &[Root], an_ethernet_interface),
        Test::new("links::drivers", &[Root, Tun], drivers_tell_their_names),
        Test::new(
            "links::controller",
            &[Root, LinkKind("bridge")],
            a_port_knows_its_bridge,
        ),
        Test::new(
            "links::tun_and_tap",
            &[Root, Tun],
            tun_is_layer_3_and_tap_is_ethernet,
        ),
        Test::new(
            "links::gre",
            &[Root, LinkKind("gre")],
            gre_needs_a_remote_end,
        ),
        Test::new(
            "links::refused_or_missing",
            &[Root],
            loopback_is_refused_and_what_is_not_there_is_not_found,
        ),
        Test::new("links::addresses", &[Root], addresses_with_prefix_and_peer),
    ]
}
