//! What the agent is told about changes.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::net::Netlink;
use dz_agent::net::links::Address;
use dz_agent::net::monitor::{Event, Monitor};
use dz_agent::net::routes::{Route, Routes};
use dz_tests::harness::{Requirement::Root, Test};
use dz_tests::netns::Netns;

/// Waits until an event comes that `wanted` accepts.
async fn until(monitor: &mut Monitor, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<()> {
    let wait = async {
        loop {
            if wanted(&monitor.next().await?) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .with_context(|| what.to_owned())?
}

fn links_addresses_and_routes() -> Result<()> {
    let netns = Netns::new("monitor")?;
    netns.block_on(|| async {
        let mut monitor = Monitor::open()?;
        netns.ip("link add v0 type veth peer name v1")?;
        let index = netns.ifindex("v0")?;
        until(&mut monitor, "new link", |event| {
            matches!(event, Event::Link { ifindex, name, up: false, gone: false }
                if *ifindex == index && name == "v0")
        })
        .await?;
        netns.ip("link set v0 up")?;
        until(&mut monitor, "link up", |event| {
            matches!(event, Event::Link { ifindex, up: true, gone: false, .. } if *ifindex == index)
        })
        .await?;

        let local = Ipv4Addr::new(10, 0, 0, 1);
        let address = Address {
            local,
            prefix_len: 31,
            peer: None,
            scope: 0,
            secondary: false,
        };
        netns.ip("address add 10.0.0.1/31 dev v0")?;
        let wanted = Event::Address {
            ifindex: index,
            address,
            gone: false,
        };
        until(&mut monitor, "new address", |event| *event == wanted).await?;

        let dst = Ipv4Addr::new(198, 51, 100, 7);
        let changed = |event: &Event, is_gone| {
            let Event::Route {
                dst: found,
                prefix_len: 32,
                ifindex: Some(ifindex),
                protocol: 186,
                gone,
                place,
            } = event
            else {
                return false;
            };
            let by_somebody = place.by != 0 && place.ours && !place.replaced;
            (*found, *ifindex, *gone) == (dst, index, is_gone) && by_somebody
        };
        netns.ip("route add 198.51.100.7 dev v0 proto bgp")?;
        until(&mut monitor, "new route", |event| changed(event, false)).await?;
        netns.ip("route replace 198.51.100.7 dev v0 proto static")?;
        until(&mut monitor, "another in its place", |event| {
            matches!(event, Event::Route { protocol: 4, gone: false, place, .. } if place.replaced)
        })
        .await?;
        netns.ip("route replace 198.51.100.7 dev v0 proto bgp")?;
        netns.ip("route del 198.51.100.7")?;
        until(&mut monitor, "route gone", |event| changed(event, true)).await?;

        netns.ip("address del 10.0.0.1/31 dev v0")?;
        let wanted = Event::Address {
            ifindex: index,
            address,
            gone: true,
        };
        until(&mut monitor, "address gone", |event| *event == wanted).await?;
        netns.ip("link del v0")?;
        until(
            &mut monitor,
            "link gone",
            |event| matches!(event, Event::Link { ifindex, gone: true, .. } if *ifindex == index),
        )
        .await
    })
}

/// What two sockets ask for is not told, and everything else is.
fn our_own_routes_are_left_out() -> Result<()> {
    let netns = Netns::new("monitor")?;
    netns.ip("link add v0 type veth peer name v1")?;
    netns.ip("link set v0 up")?;
    let ifindex = netns.ifindex("v0")?;
    netns.block_on(|| async {
        let netlinks = [Netlink::open()?, Netlink::open()?];
        let mut monitor = Monitor::open()?;
        monitor.leave_out(netlinks.each_ref().map(Netlink::port))?;
        let [one, other] = netlinks.map(|netlink| Routes::new(netlink, 144));
        let [ours, theirs] = [7, 8].map(|last| Ipv4Addr::new(198, 51, 100, last));
        let route = Route {
            dst: ours,
            ifindex,
            src: None,
            via: None,
        };
        for (routes, gone) in [(&one, false), (&other, true), (&other, false), (&one, true)] {
            let word = if gone { "del" } else { "add" };
            if gone {
                routes.delete(ours, ifindex).await?;
            } else {
                routes.add(&route).await?;
            }
            netns.ip(&format!("route {word} {theirs} dev v0"))?;
            let told = RefCell::new(Vec::new());
            until(&mut monitor, "somebody else's route", |event| {
                if let Event::Route { dst, gone, .. } = event {
                    told.borrow_mut().push((*dst, *gone));
                }
                told.borrow().last() == Some(&(theirs, gone))
            })
            .await?;
            ensure!(told.borrow().len() == 1, "{:?}", told.borrow());
        }
        Ok(())
    })
}

/// More changes than the buffer holds, while nobody reads. What changes after the report must not be
/// lost in silence: the kernel drops until the buffer has been emptied.
fn an_overrun_is_reported_and_the_stream_goes_on() -> Result<()> {
    let netns = Netns::new("monitor")?;
    netns.ip("link add v0 type veth peer name v1")?;
    netns.ip("link set v0 up")?;
    let batch: String = (0..60_000u32)
        .map(|i| format!("route add {} dev v0\n", Ipv4Addr::from(0xac10_0000 + i)))
        .collect();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), batch)?;
    netns.block_on(|| async {
        let mut monitor = Monitor::open()?;
        netns.ip(&format!("-batch {}", file.path().display()))?;
        until(&mut monitor, "overrun", |event| *event == Event::Overrun).await?;
        netns.ip("route add 198.51.100.7 dev v0 proto bgp")?;
        let dst = Ipv4Addr::new(198, 51, 100, 7);
        until(
            &mut monitor,
            "an event after the overrun",
            |event| matches!(event, Event::Route { dst: found, .. } if *found == dst),
        )
        .await
    })
}

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "monitor::links_addresses_routes",
            &[Root],
            links_addresses_and_routes,
        ),
        Test::new(
            "monitor::our_own_routes_are_left_out",
            &[Root],
            our_own_routes_are_left_out,
        ),
        Test::new(
            "monitor::overrun",
            &[Root],
            an_overrun_is_reported_and_the_stream_goes_on,
        ),
    ]
}
