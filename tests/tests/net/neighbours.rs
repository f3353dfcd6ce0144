//! Ethernet addresses of next hops.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_agent::net::{Netlink, neighbours};
use dz_tests::harness::{Requirement::Root, Requirement::Tool, Test};
use dz_tests::netns::Netns;
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;

/// For what the kernel does soon, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("neighbours::in_one_dump", &[Root], in_one_dump),
        Test::new("neighbours::resolved", &[Root, Tool("ethtool")], resolved),
    ]
}

fn list(netns: &Netns, ifindex: u32) -> Result<BTreeSet<(Ipv4Addr, [u8; 6])>> {
    let table = netns.block_on(|| async {
        neighbours::list(&Netlink::open()?, ifindex)
            .await
            .map_err(anyhow::Error::from)
    })?;
    Ok(table.into_iter().collect())
}

/// Those of one interface that have an address to send to, however many there are, and no others.
fn in_one_dump() -> Result<()> {
    const MANY: u16 = 1_000;
    let netns = Netns::new("neighbours")?;
    netns.ip("link add v0 type veth peer name v1")?;
    netns.ip("link set v0 up")?;
    netns.ip("link set v1 up")?;
    let mac = "lladdr 02:00:00:00:00:07";
    netns.ip(&format!(
        "neighbour add 10.0.0.1 {mac} nud permanent dev v1"
    ))?;
    netns.ip(&format!("neighbour add 10.0.0.2 {mac} nud noarp dev v0"))?;
    netns.ip("neighbour add 10.0.0.3 nud incomplete dev v0")?;
    netns.ip(&format!("neighbour add 10.0.0.4 {mac} nud failed dev v0"))?;
    netns.ip(&format!("neighbour add 10.0.0.5 {mac} nud stale dev v0"))?;
    netns.ip("neighbour add proxy 10.0.0.6 dev v0")?;
    netns.ip(&format!("neighbour add fe80::7 {mac} nud permanent dev v0"))?;
    let mut expected = BTreeSet::from([(Ipv4Addr::new(10, 0, 0, 5), [2, 0, 0, 0, 0, 7])]);
    let mut batch = tempfile::NamedTempFile::new()?;
    for number in 0..MANY {
        let [high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(10, 1, high, low);
        let mac = format!("02:00:00:01:{high:02x}:{low:02x}");
        writeln!(
            batch,
            "neighbour add {address} lladdr {mac} nud permanent dev v0"
        )?;
        expected.insert((address, [2, 0, 0, 1, high, low]));
    }
    netns.ip(&format!("-batch {}", batch.path().display()))?;
    let found = list(&netns, netns.ifindex("v0")?)?;
    let missing: Vec<_> = expected.difference(&found).collect();
    let more: Vec<_> = found.difference(&expected).collect();
    ensure!(
        missing.is_empty() && more.is_empty(),
        "without {missing:?}, with {more:?}"
    );
    ensure!(list(&netns, 4_711)?.is_empty(), "of no interface");
    Ok(())
}

/// One that is not known is asked for; then it is in the table.
fn resolved() -> Result<()> {
    let (here, there) = (Netns::new("resolve")?, Netns::new("resolve")?);
    veth::pair(
        &End::new(&here, "v0", "169.254.7.0/31"),
        &End::new(&there, "v0", "169.254.7.1/31"),
    )?;
    let (ifindex, far) = (here.ifindex("v0")?, Ipv4Addr::new(169, 254, 7, 1));
    ensure!(
        list(&here, ifindex)?.is_empty(),
        "known before it was asked for"
    );
    let mac = veth::mac(&there, "v0")?;
    eventually(PATIENCE, "a neighbour that answers", || {
        let found = here.block_on(|| async {
            let netlink = Netlink::open()?;
            anyhow::Ok(neighbours::resolve(&netlink, ifindex, far).await?)
        })?;
        ensure!(found == Some(mac), "{found:?}");
        anyhow::Ok(())
    })?;
    let table = list(&here, ifindex)?;
    ensure!(table == BTreeSet::from([(far, mac)]), "{table:?}");
    Ok(())
}
