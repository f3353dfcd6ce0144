//! Plain IBRL: BIRD's routes have public addresses as their sources, which the NIC holds
//! (`krt_prefsrc`), and the far end of the tunnel's link as their next hop.

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::Home;
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::beside::Beside;
use crate::scene::{Holder, Host, Hosts, Kind};
use crate::sessions::{entries, until};
use crate::traffic::{Traffic, Way};

const ALL: [usize; 4] = [0, 1, 2, 3];
/// How often the tunnel is made anew before anybody waits for what comes of it.
const TIMES: [usize; 3] = [1, 3, 1];

fn beside(kind: Kind) -> Result<Beside> {
    let hosts = Hosts::with(kind, u16::try_from(ALL.len())?, Holder::Underlay)?;
    Beside::over(hosts, |host| host.agent(Home::new()?))
}

/// Sessions come Up from the public addresses without a word from anybody. The far agent ends: what is
/// sent from those addresses leaves by the underlay, which may see them. It starts, and everything is as
/// before; BIRD has noticed nothing.
pub(crate) fn stopped(kind: Kind) -> Result<()> {
    let mut beside = beside(kind)?;
    let hosts = beside.hosts.clone();
    let (here, there) = (&hosts.here, &hosts.there);
    let out = Traffic::new(here, there)?;
    beside.until_all(State::Up)?;
    until_way(&out, here, Way::Tunnel)?;
    let before = beside.bystanders()?;

    let far = beside.far_agent.take().context("no agent")?;
    let home = far.end(Signal::SIGTERM)?;
    until(beside.agent()?, (here, there), &ALL, State::Down)?;
    until_way(&out, here, Way::Underlay)?;
    beside.unchanged(&before)?;

    beside.far_agent = Some(there.agent(home)?);
    beside.until_all(State::Up)?;
    until_way(&out, here, Way::Tunnel)?;
    beside.unchanged(&before)
}

/// The tunnel is deleted at both ends and made anew, with another index; BGP brings the routes back, and
/// they the sessions: all of them, and none of the old tunnel's.
pub(crate) fn tunnel_anew(kind: Kind) -> Result<()> {
    let beside = beside(kind)?;
    let hosts = beside.hosts.clone();
    let (here, there) = (&hosts.here, &hosts.there);
    let (out, back) = (Traffic::new(here, there)?, Traffic::new(there, here)?);
    beside.until_all(State::Up)?;
    for times in TIMES {
        for _ in 0..times {
            let old = here.netns.ifindex(INTERFACE)?;
            hosts.tunnel_anew()?;
            ensure!(here.netns.ifindex(INTERFACE)? != old, "the same index");
        }
        beside.bird()?.until_established()?;
        here.until_routes(there, &ALL)?;
        there.until_routes(here, &ALL)?;
        beside.until_all(State::Up)?;
        for (agent, host, far) in [
            (beside.agent()?, here, there),
            (beside.far_agent()?, there, here),
        ] {
            let ifindex = host.netns.ifindex(INTERFACE)?;
            let entries = entries(agent.home(), far)?;
            ensure!(
                entries
                    .iter()
                    .all(|(_, entry)| entry.key.ifindex == ifindex),
                "{entries:?}"
            );
        }
        until_way(&out, here, Way::Tunnel)?;
        until_way(&back, there, Way::Tunnel)?;
    }
    Ok(())
}

/// Waits until what goes from each public address to its peer takes this way.
fn until_way(traffic: &Traffic<'_>, from: &Host, way: Way) -> Result<()> {
    for number in ALL {
        let source = from.addresses[number];
        eventually(PATIENCE, &format!("{way:?} from {source}"), || {
            let seen = traffic.way(number, source)?;
            ensure!(seen == way, "{seen:?}");
            anyhow::Ok(())
        })?;
    }
    Ok(())
}
