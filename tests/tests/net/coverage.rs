//! Which interfaces have routes to what, of whatever table and shape.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_agent::net::{Netlink, coverage};
use dz_tests::harness::{Requirement::Root, Test};
use dz_tests::netns::Netns;

const DST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

fn every_table_and_shape() -> Result<()> {
    let netns = Netns::new("coverage")?;
    let mut interfaces = Vec::new();
    for name in ["v0", "v1", "v2", "v3", "v4"] {
        netns.ip(&format!("link add {name} type veth peer name {name}p"))?;
        for end in [name, &format!("{name}p")] {
            netns.ip(&format!("link set {end} up"))?;
        }
        interfaces.push(netns.ifindex(name)?);
    }
    interfaces.sort_unstable();
    let index = |name: &str| netns.ifindex(name);
    let covering = |expected: &[&str]| -> Result<()> {
        let read =
            netns.block_on(|| async { anyhow::Ok(coverage::read(&Netlink::open()?).await?) });
        let found = read?.covering(DST, &interfaces);
        let mut wanted = expected
            .iter()
            .map(|name| index(name))
            .collect::<Result<Vec<_>>>()?;
        wanted.sort_unstable();
        ensure!(found == wanted, "{found:?}, not {wanted:?}");
        Ok(())
    };
    covering(&[])?;
    netns.ip("route add 203.0.112.0/24 dev v1")?;
    netns.ip("route add blackhole 203.0.113.0/24")?;
    covering(&[])?;
    netns.ip("route add default dev v0 table 77")?;
    covering(&["v0"])?;
    netns.ip("route add 203.0.113.0/25 nexthop dev v2 nexthop dev v3")?;
    covering(&["v0", "v2", "v3"])?;
    netns.ip("address add 203.0.113.9/26 dev v4")?;
    covering(&["v0", "v2", "v3", "v4"])?;
    // Of this one the kernel tells no interface.
    netns.run(|| std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0"))?;
    netns.ip("nexthop add id 7 dev v1")?;
    netns.ip("route add 203.0.113.7/32 nhid 7")?;
    covering(&["v0", "v1", "v2", "v3", "v4"])
}

pub(crate) fn tests() -> Vec<Test> {
    vec![Test::new(
        "coverage::every_table_and_shape",
        &[Root],
        every_table_and_shape,
    )]
}
