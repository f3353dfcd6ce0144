//! Routes that are somebody else's make peers.

use anyhow::ensure;

use super::super::observe::session;
use super::super::parts::Demo;

/// Nobody connects anything: a route comes, and goes again.
pub(super) fn bgp_routes(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    console.say(
        "So far peers were named by hand. The agents also run with --follow proto=bgp: a host\n\
         route that a BGP daemon installs is a peer. `ip` plays the daemon here.",
    )?;
    for host in [&*a, &*b] {
        console.show(&host.ask("disconnect --all"))?;
    }
    for (host, other) in [(&*a, &*b), (&*b, &*a)] {
        console.show(&format!(
            "ip -n {} route add {}/32 via {} dev doublezero0 src {} proto bgp metric 20",
            host.netns, other.address, other.link, host.address
        ))?;
    }
    for host in [&*a, &*b] {
        let what = format!("the session of {} to be Up", host.name);
        console.wait(&what, || {
            // None yet, at first.
            let up = session(console, host).is_ok_and(|session| session.state == "up");
            Ok(up.then_some(()))
        })?;
        console.show(&host.ask("sessions"))?;
    }
    let ours = console.show(&format!("ip -n {} route show proto 144", a.netns))?;
    ensure!(ours.is_empty(), "A has added a route of its own");
    let routes = format!("ip -n {} route show proto bgp", a.netns);
    let before = console.show(&routes)?;
    console.say(
        "The daemon of B withdraws its route. B gives the session up and tells A, whose gate keeps\n\
         packets out of the tunnel from then on. A's route is its daemon's, and stays:",
    )?;
    console.show(&format!(
        "ip -n {} route delete {}/32 proto bgp",
        b.netns, a.address
    ))?;
    console.wait("the session of A to be Down by remote_admin", || {
        let session = session(console, a)?;
        let down = session.state == "down" && session.last_down_reason == "remote_admin";
        Ok(down.then_some(()))
    })?;
    console.wait("B without a session", || {
        let shown = console.read(&b.ask("sessions"))?;
        Ok((shown == "no sessions\n").then_some(()))
    })?;
    console.show(&b.ask("sessions"))?;
    console.show(&a.ask("sessions"))?;
    let after = console.show(&routes)?;
    ensure!(before == after, "the daemon's route of A has changed");
    for host in [&mut *a, &mut *b] {
        host.show_news(console)?;
    }
    Ok(())
}
