//! Our routes beside those of others.

use std::net::Ipv4Addr;

use anyhow::{Result, bail, ensure};
use dz_agent::net::Netlink;
use dz_agent::net::routes::{Added, DEFAULT_PROTOCOL, Deleted, Foreign, Route, RouteError, Routes};
use dz_tests::harness::{Requirement::Root, Test};
use dz_tests::netns::Netns;
use nix::errno::Errno;

const DST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER_SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

/// Two interfaces, `v0` with two addresses and `v1`.
struct Fixture {
    netns: Netns,
    v0: u32,
    v1: u32,
}

impl Fixture {
    fn new() -> Result<Self> {
        let netns = Netns::new("routes")?;
        netns.ip("link add v0 type veth peer name v1")?;
        netns.ip("address add 10.0.0.1/31 dev v0")?;
        netns.ip("address add 10.0.0.3/32 dev v0")?;
        netns.ip("link set v0 up")?;
        netns.ip("link set v1 up")?;
        let (v0, v1) = (netns.ifindex("v0")?, netns.ifindex("v1")?);
        Ok(Self { netns, v0, v1 })
    }

    const fn route(&self) -> Route {
        Route {
            dst: DST,
            ifindex: self.v0,
            src: Some(SRC),
            via: None,
        }
    }

    fn with<T: Send, F: Future<Output = T>>(&self, f: impl FnOnce(Routes) -> F + Send) -> T {
        self.netns.block_on(|| {
            f(Routes::new(
                Netlink::open().expect("a netlink socket"),
                DEFAULT_PROTOCOL,
            ))
        })
    }

    fn add(&self, route: Route) -> Result<Added, RouteError> {
        self.with(|routes| async move { routes.add(&route).await })
    }

    fn delete(&self, ifindex: u32) -> Result<Deleted, RouteError> {
        self.with(|routes| async move { routes.delete(DST, ifindex).await })
    }

    fn list(&self, ifindex: Option<u32>) -> Result<Vec<Route>, RouteError> {
        self.with(|routes| async move { routes.list(ifindex).await })
    }

    fn foreign(&self) -> Result<Option<Foreign>, RouteError> {
        self.with(|routes| async move { routes.foreign(DST).await })
    }

    /// What `ip route` shows for the destination.
    fn shown(&self) -> Result<String> {
        Ok(self
            .netns
            .ip("route show to exact 198.51.100.7")?
            .trim()
            .to_owned())
    }
}

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

fn a_foreign_route_is_untouched() -> Result<()> {
    let fixture = Fixture::new()?;
    for (words, protocol) in [("proto static", 4), ("proto bgp", 186), ("proto 145", 145)] {
        fixture
            .netns
            .ip(&format!("route add 198.51.100.7 dev v0 {words}"))?;
        let before = fixture.shown()?;
        match fixture.add(fixture.route()) {
            Err(RouteError::Conflict { foreign, .. }) => {
                ensure!(foreign.protocol == protocol && foreign.ifindex == Some(fixture.v0));
            }
            other => bail!("beside {words}: {other:?}"),
        }
        ensure!(fixture.delete(fixture.v0)? == Deleted::AlreadyGone);
        ensure!(
            fixture.shown()? == before,
            "{} was {before}",
            fixture.shown()?
        );
        let foreign = Foreign {
            protocol,
            ifindex: Some(fixture.v0),
            metric: 0,
        };
        ensure!(fixture.foreign()? == Some(foreign));
        ensure!(fixture.list(None)?.is_empty());
        fixture.netns.ip("route del 198.51.100.7")?;
    }
    Ok(())
}

fn a_foreign_blackhole_is_a_conflict() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.netns.ip("route add blackhole 198.51.100.7")?;
    match fixture.add(fixture.route()) {
        // 3 is what `ip` gives by default: RTPROT_BOOT.
        Err(RouteError::Conflict { foreign, .. }) => ensure!(foreign.protocol == 3),
        other => bail!("{other:?}"),
    }
    ensure!(fixture.delete(fixture.v0)? == Deleted::AlreadyGone);
    ensure!(fixture.shown()?.starts_with("blackhole"));
    Ok(())
}

fn a_foreign_route_with_another_metric_stays_beside_ours() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture
        .netns
        .ip("route add 198.51.100.7 dev v1 proto bgp metric 20")?;
    ensure!(
        fixture
            .foreign()?
            .is_some_and(|foreign| foreign.metric == 20)
    );
    ensure!(fixture.add(fixture.route())? == Added::New);
    ensure!(fixture.foreign()?.is_none(), "ours has the better metric");
    ensure!(fixture.delete(fixture.v0)? == Deleted::Deleted);
    let shown = fixture.shown()?;
    ensure!(
        shown.contains("proto bgp") && !shown.contains("proto 144"),
        "{shown}"
    );
    Ok(())
}

fn a_route_appended_beside_ours_survives_a_replacement() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.add(fixture.route())?;
    fixture
        .netns
        .ip("route append 198.51.100.7 dev v1 proto bgp")?;
    let changed = Route {
        src: Some(OTHER_SRC),
        ..fixture.route()
    };
    match fixture.add(changed) {
        Err(RouteError::Conflict { foreign, .. }) => ensure!(foreign.protocol == 186),
        other => bail!("{other:?}"),
    }
    let shown = fixture.shown()?;
    ensure!(shown.contains("dev v1 proto bgp"), "{shown}");
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

fn our_number_on_another_interface_is_another_agents() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture
        .netns
        .ip("route add 198.51.100.7 dev v1 proto 144")?;
    match fixture.add(fixture.route()) {
        Err(RouteError::Conflict { foreign, .. }) => {
            ensure!(foreign.protocol == 144 && foreign.ifindex == Some(fixture.v1));
        }
        other => bail!("{other:?}"),
    }
    ensure!(fixture.delete(fixture.v0)? == Deleted::AlreadyGone);
    ensure!(fixture.list(Some(fixture.v0))?.is_empty());
    let theirs = Route {
        dst: DST,
        ifindex: fixture.v1,
        src: None,
        via: None,
    };
    ensure!(fixture.list(Some(fixture.v1))? == [theirs]);
    ensure!(fixture.shown()?.contains("dev v1 proto 144"));
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

/// The lookup does not see a route whose link is down; the addition still must tell whose it is.
fn a_conflict_out_of_use_is_still_found() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture
        .netns
        .ip("route add 198.51.100.7 dev v0 proto bgp")?;
    // Another table answers first.
    fixture.netns.ip("route add default dev v1 table 77")?;
    fixture.netns.ip("rule add priority 10 table 77")?;
    ensure!(fixture.foreign()?.is_none(), "not in use");
    match fixture.add(fixture.route()) {
        Err(RouteError::Conflict { foreign, .. }) => ensure!(foreign.protocol == 186),
        other => bail!("{other:?}"),
    }
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

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "routes::added_once_and_deleted_once",
            &[Root],
            added_once_and_deleted_once,
        ),
        Test::new(
            "routes::foreign_untouched",
            &[Root],
            a_foreign_route_is_untouched,
        ),
        Test::new(
            "routes::foreign_blackhole",
            &[Root],
            a_foreign_blackhole_is_a_conflict,
        ),
        Test::new(
            "routes::foreign_with_another_metric",
            &[Root],
            a_foreign_route_with_another_metric_stays_beside_ours,
        ),
        Test::new(
            "routes::foreign_appended",
            &[Root],
            a_route_appended_beside_ours_survives_a_replacement,
        ),
        Test::new(
            "routes::replaced",
            &[Root],
            a_different_one_of_ours_is_replaced,
        ),
        Test::new(
            "routes::another_agents",
            &[Root],
            our_number_on_another_interface_is_another_agents,
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
        Test::new(
            "routes::conflict_out_of_use",
            &[Root],
            a_conflict_out_of_use_is_still_found,
        ),
        Test::new("routes::list", &[Root], lists_what_is_ours_and_nothing_else),
        Test::new("routes::many_in_flight", &[Root], many_in_flight_at_once),
    ]
}
