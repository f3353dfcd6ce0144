//! Adding, replacing, deleting and listing our routes.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_agent::net::routes::{Added, Deleted, Route};
use dz_tests::harness::{Requirement::Root, Test};
use nix::errno::Errno;

use super::fixture::{DST, Fixture, OTHER_SRC};

fn added_once_and_deleted_once() -> Result<()> {
    let fixture = Fixture::new()?;
    ensure!(fixture.add(fixture.route())? == Added::New);
    let shown = fixture.shown()?;
    ensure!(
        shown == "198.51.100.7 dev v0 proto 144 scope link src 10.0.0.1",
        "{shown}"
    );
    ensure!(fixture.add(fixture.route())? == Added::AlreadyThere);
    ensure!(fixture.list(None)? == [fixture.route()]);
    ensure!(fixture.foreign()?.is_none());
    ensure!(fixture.delete(fixture.v0)? == Deleted::Deleted);
    ensure!(fixture.delete(fixture.v0)? == Deleted::AlreadyGone);
    ensure!(fixture.shown()?.is_empty());
    ensure!(fixture.list(None)?.is_empty());
    Ok(())
}

fn a_different_one_of_ours_is_replaced() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.add(fixture.route())?;
    let changed = Route {
        src: Some(OTHER_SRC),
        ..fixture.route()
    };
    ensure!(fixture.add(changed)? == Added::Replaced);
    ensure!(fixture.list(Some(fixture.v0))? == [changed]);
    let via = Route {
        via: Some(Ipv4Addr::new(10, 0, 0, 0)),
        ..changed
    };
    ensure!(fixture.add(via)? == Added::Replaced);
    ensure!(fixture.list(Some(fixture.v0))? == [via]);
    ensure!(fixture.delete(fixture.v0)? == Deleted::Deleted);
    Ok(())
}

fn a_gateway_that_no_prefix_covers() -> Result<()> {
    let fixture = Fixture::new()?;
    let via = Some(Ipv4Addr::new(169, 254, 9, 8));
    let route = Route {
        via,
        ..fixture.route()
    };
    ensure!(fixture.add(route)? == Added::New);
    ensure!(fixture.add(route)? == Added::AlreadyThere);
    let shown = fixture.shown()?;
    ensure!(
        shown.contains("via 169.254.9.8 dev v0") && shown.contains("onlink"),
        "{shown}"
    );
    ensure!(fixture.list(None)? == [route]);
    ensure!(fixture.delete(fixture.v0)? == Deleted::Deleted);
    Ok(())
}

fn refusals_name_the_reason() -> Result<()> {
    let fixture = Fixture::new()?;
    let refused = |route: Route, errno: Errno, words: &str| -> Result<()> {
        let error = fixture.add(route).expect_err("it is refused");
        ensure!(error.errno() == Some(errno), "{error}");
        let line = error.to_string();
        ensure!(
            line.contains("adding route 198.51.100.7/32") && line.contains(words),
            "{line}"
        );
        Ok(())
    };
    let stranger = Some(Ipv4Addr::new(192, 0, 2, 99));
    refused(
        Route {
            src: stranger,
            ..fixture.route()
        },
        Errno::EINVAL,
        "source address",
    )?;
    refused(
        Route {
            ifindex: 999,
            ..fixture.route()
        },
        Errno::ENODEV,
        "interface is gone",
    )?;
    fixture.netns.ip("link set v0 down")?;
    refused(fixture.route(), Errno::ENETDOWN, "bring the interface up")?;
    Ok(())
}

fn an_interface_that_goes_takes_its_routes_along() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.add(fixture.route())?;
    fixture.netns.ip("link del v0")?;
    ensure!(fixture.delete(fixture.v0)? == Deleted::AlreadyGone);
    ensure!(fixture.list(Some(fixture.v0))?.is_empty());
    let error = fixture
        .add(fixture.route())
        .expect_err("its interface is gone");
    ensure!(error.errno() == Some(Errno::ENODEV), "{error}");
    Ok(())
}

/// Not a rule of ours but a fact of the kernel that the engine has to allow for.
fn a_link_set_down_flushes_our_routes() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.add(fixture.route())?;
    fixture.netns.ip("link set v0 down")?;
    ensure!(fixture.list(None)?.is_empty());
    fixture.netns.ip("link set v0 up")?;
    ensure!(
        fixture.list(None)?.is_empty(),
        "nothing brings it back but us"
    );
    Ok(())
}

fn lists_what_is_ours_and_nothing_else() -> Result<()> {
    let fixture = Fixture::new()?;
    ensure!(fixture.list(Some(999))?.is_empty());
    for line in [
        "route add 198.51.100.1 dev v0 proto static",
        "route add 198.51.100.2 dev v0 proto 144 table 77",
        "route add 198.51.100.0/24 dev v0 proto 144",
        "route add 198.51.100.3 dev v0 proto 144 metric 5",
        "route add blackhole 198.51.100.4 proto 144",
        "route add 198.51.100.5 proto 144 nexthop dev v0 nexthop dev v1",
    ] {
        fixture.netns.ip(line)?;
    }
    ensure!(fixture.list(None)?.is_empty(), "{:?}", fixture.list(None)?);
    fixture.add(fixture.route())?;
    ensure!(fixture.list(None)? == [fixture.route()]);
    ensure!(fixture.list(Some(fixture.v0))? == [fixture.route()]);
    ensure!(fixture.list(Some(fixture.v1))?.is_empty());
    Ok(())
}

/// Somebody puts a route of ours on a next hop object: it is ours all the same, and not the one that is wanted;
/// whether or not the kernel tells what the object is.
fn on_a_next_hop_object() -> Result<()> {
    let fixture = Fixture::new()?;
    let route = fixture.route();
    let read = Route { src: None, ..route };
    fixture.netns.ip("nexthop add id 7 dev v0")?;
    fixture.netns.ip("nexthop add id 8 dev v0")?;
    fixture.netns.ip("nexthop add id 9 group 7/8")?;
    let shapes = ["nhid 7 src 10.0.0.1", "nhid 7", "nhid 9"];
    for (told, shape) in ["1", "0"]
        .iter()
        .flat_map(|told| shapes.map(|shape| (told, shape)))
    {
        let case = format!("{shape}, nexthop_compat_mode {told}");
        let file = "/proc/sys/net/ipv4/nexthop_compat_mode";
        fixture.netns.run(|| std::fs::write(file, told))?;
        let put = format!("route replace {DST}/32 {shape} proto 144");
        fixture.add(route)?;
        fixture.netns.ip(&put)?;
        ensure!(
            fixture.list(None)? == [read],
            "{case}: {:?}",
            fixture.list(None)?
        );
        ensure!(fixture.list(Some(fixture.v0))? == [read], "{case}");
        ensure!(fixture.list(Some(fixture.v1))?.is_empty(), "{case}");
        ensure!(fixture.add(route)? == Added::Replaced, "{case}");
        ensure!(fixture.list(None)? == [route], "{case}");
        fixture.netns.ip(&put)?;
        ensure!(
            fixture.delete(fixture.v1)? == Deleted::AlreadyGone,
            "{case}"
        );
        ensure!(fixture.delete(fixture.v0)? == Deleted::Deleted, "{case}");
        ensure!(fixture.shown()?.is_empty(), "{case}: {}", fixture.shown()?);
        // Another one's, under another number.
        fixture
            .netns
            .ip(&format!("route add {DST}/32 {shape} proto static"))?;
        ensure!(fixture.add(route).is_err(), "{case}: somebody else's");
        ensure!(
            fixture.delete(fixture.v0)? == Deleted::AlreadyGone,
            "{case}"
        );
        ensure!(!fixture.shown()?.is_empty(), "{case}: somebody else's");
        fixture.netns.ip(&format!("route delete {DST}/32"))?;
    }
    Ok(())
}

fn many_in_flight_at_once() -> Result<()> {
    const COUNT: u16 = 1000;
    let fixture = Fixture::new()?;
    let wanted: Vec<Route> = (0..COUNT)
        .map(|i| {
            let [high, low] = i.to_be_bytes();
            Route {
                dst: Ipv4Addr::new(172, 16, high, low),
                ..fixture.route()
            }
        })
        .collect();
    let (listed, left) = fixture.with(|routes| async move {
        let all = wanted.clone().into_iter().map(|route| {
            let routes = routes.clone();
            tokio::spawn(async move { routes.add(&route).await })
        });
        for task in all.collect::<Vec<_>>() {
            ensure!(task.await?? == Added::New);
        }
        let mut listed = routes.list(None).await?;
        listed.sort_by_key(|route| route.dst);
        ensure!(listed == wanted);
        let all = wanted.into_iter().map(|route| {
            let routes = routes.clone();
            tokio::spawn(async move { routes.delete(route.dst, route.ifindex).await })
        });
        for task in all.collect::<Vec<_>>() {
            ensure!(task.await?? == Deleted::Deleted);
        }
        Ok((listed.len(), routes.list(None).await?.len()))
    })?;
    ensure!((listed, left) == (COUNT.into(), 0));
    Ok(())
}

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "routes::added_once_and_deleted_once",
            &[Root],
            added_once_and_deleted_once,
        ),
        Test::new(
            "routes::replaced",
            &[Root],
            a_different_one_of_ours_is_replaced,
        ),
        Test::new("routes::gateway", &[Root], a_gateway_that_no_prefix_covers),
        Test::new("routes::refusals", &[Root], refusals_name_the_reason),
        Test::new(
            "routes::interface_gone",
            &[Root],
            an_interface_that_goes_takes_its_routes_along,
        ),
        Test::new(
            "routes::link_down",
            &[Root],
            a_link_set_down_flushes_our_routes,
        ),
        Test::new("routes::list", &[Root], lists_what_is_ours_and_nothing_else),
        Test::new(
            "routes::on_a_next_hop_object",
            &[Root],
            on_a_next_hop_object,
        ),
        Test::new("routes::many_in_flight", &[Root], many_in_flight_at_once),
    ]
}
