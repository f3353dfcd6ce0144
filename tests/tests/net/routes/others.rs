//! Routes that others own, of the same destination as ours.

use anyhow::{Result, bail, ensure};
use dz_agent::net::routes::{Added, Deleted, Foreign, Route, RouteError};
use dz_tests::harness::{Requirement::Root, Test};

use super::fixture::{DST, Fixture, OTHER_SRC};

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

pub(super) fn tests() -> Vec<Test> {
    vec![
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
            "routes::another_agents",
            &[Root],
            our_number_on_another_interface_is_another_agents,
        ),
        Test::new(
            "routes::conflict_out_of_use",
            &[Root],
            a_conflict_out_of_use_is_still_found,
        ),
    ]
}
