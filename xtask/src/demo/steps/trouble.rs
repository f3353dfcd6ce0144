//! What happens when something goes wrong, or ends.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::super::console::Console;
use super::super::host::Host;
use super::super::observe::{InKernel, counter, in_kernel, session, sessions_map};
use super::super::parts::Demo;
use super::healthy::has_route;
use super::setup::both_up;

/// How many detection times the agent is stopped for.
const FROZEN_FOR: u32 = 3;

/// One agent does not run at all for longer than the detection time.
pub(super) fn freeze(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    let up = session(console, a)?;
    let detect = Duration::from_micros(up.detect_time_us);
    let frozen_for = detect * FROZEN_FOR;
    console.say(&format!(
        "The agent of B is stopped for more than {} ms: it can neither receive nor send. After {} ms\n\
         of silence A would take B for Down. But the kernel of B answers every packet of A.",
        frozen_for.as_millis(),
        detect.as_millis()
    ))?;
    let pid = b.agent()?.pid();
    console.show(&format!("kill -STOP {pid}"))?;
    let agent = b.agent()?;
    console.wait("the agent of B to be stopped", || {
        Ok(agent.is_stopped()?.then_some(()))
    })?;
    let since = Instant::now();
    console.show(&format!("grep State: /proc/{pid}/status"))?;
    console.say("B's session at the beginning, from the map in the kernel:")?;
    let before = show_in_kernel(console, b)?;
    console.wait("answers of B's kernel", || {
        let now = in_kernel(console, b)?;
        same(&before, &now)?;
        let peer = session(console, a)?;
        ensure!(
            peer.is_up() && peer.transitions == up.transitions,
            "A's session did not stay Up: {peer:?}"
        );
        let answers = now.answered - before.answered;
        Ok((since.elapsed() > frozen_for && answers > u64::from(FROZEN_FOR)).then_some(()))
    })?;
    console.say(&format!(
        "And after {} ms, the agent still stopped:",
        since.elapsed().as_millis()
    ))?;
    console.show(&format!("grep State: /proc/{pid}/status"))?;
    let after = show_in_kernel(console, b)?;
    same(&before, &after)?;
    console.say("A has not noticed anything:")?;
    console.show(&a.ask("sessions"))?;
    console.say(&format!(
        "B's kernel has answered {} packets meanwhile and its agent has sent none. Nothing changed\n\
         state. When the agent goes on, it finds everything as it was:",
        after.answered - before.answered
    ))?;
    console.show(&format!("kill -CONT {pid}"))?;
    console.show(&b.ask("sessions"))?;
    ensure!(
        session(console, b)?.transitions == before.transitions,
        "B's session has changed state"
    );
    Ok(())
}

/// Whether nothing but receiving and answering has happened to an Up session.
fn same(before: &InKernel, now: &InKernel) -> anyhow::Result<()> {
    ensure!(
        now.state == "Up"
            && now.transitions == before.transitions
            && now.ups == before.ups
            && now.originated == before.originated,
        "B's session changed: {before:?}, then {now:?}"
    );
    Ok(())
}

fn show_in_kernel(console: &mut Console, host: &Host) -> anyhow::Result<InKernel> {
    console.show(&format!(
        "bpftool map dump pinned {} | grep -E '\"(state|ups|transitions|received|answered|originated)\"'",
        sessions_map(host)
    ))?;
    in_kernel(console, host)
}

/// The bridge drops everything.
pub(super) fn cut(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo {
        console,
        a,
        b,
        stage,
    } = demo;
    console.say("From now on the bridge passes nothing on to B, and nothing of B's:")?;
    let (wire, port) = (stage.wire(), b.port);
    console.show(&format!("bridge -n {wire} link set dev {port} state 0"))?;
    console.say("Both detect it, and both routes go:")?;
    for host in [&mut *a, &mut *b] {
        let what = format!("the session of {} to be Down by timeout", host.name);
        console.wait(&what, || {
            let down = session(console, host)?.is_down("timeout");
            Ok(down.then_some(()))
        })?;
        host.wait_log(console, "route withdrawn")?;
        host.show_news(console)?;
        console.show(&host.ask("sessions"))?;
    }
    for (host, other) in [(&*a, &*b), (&*b, &*a)] {
        no_route(console, host, other)?;
    }
    console.show_failing(&a.inside(&format!("ping -c 1 -W 5 {}", b.address)))?;
    console.say("The interface itself has noticed nothing:")?;
    let link = console.show(&format!("ip -n {} -br link show doublezero0", a.netns))?;
    ensure!(
        link.contains("LOWER_UP"),
        "the interface has lost its carrier"
    );
    Ok(())
}

fn no_route(console: &mut Console, host: &Host, other: &Host) -> anyhow::Result<()> {
    let text = console.show(&format!("ip -n {} route", host.netns))?;
    ensure!(
        !has_route(&text, host, other),
        "{} has still a route to {}",
        host.name,
        other.name
    );
    Ok(())
}

/// The bridge carries packets again.
pub(super) fn mend(demo: &mut Demo) -> anyhow::Result<()> {
    let (wire, port) = (demo.stage.wire(), demo.b.port);
    let line = format!("bridge -n {wire} link set dev {port} state 3");
    demo.console.show(&line)?;
    both_up(demo)?;
    let Demo { console, a, b, .. } = demo;
    console.say("Both are Up again, and the routes are back:")?;
    for host in [&mut *a, &mut *b] {
        host.wait_log(console, "route installed")?;
        host.show_news(console)?;
        console.show(&host.ask("sessions"))?;
    }
    for (host, other) in [(&*a, &*b), (&*b, &*a)] {
        let text = console.show(&format!("ip -n {} route", host.netns))?;
        ensure!(has_route(&text, host, other), "{} has no route", host.name);
    }
    console.show(&a.inside(&format!("ping -c 1 -W 5 {}", b.address)))?;
    Ok(())
}

/// A gives the session up, B does not.
pub(super) fn disconnect(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    console.say("The command returns when everything of the session is gone on A:")?;
    console.show(&a.ask(&format!("disconnect {}", b.address)))?;
    let sessions = console.show(&a.ask("sessions"))?;
    ensure!(sessions == "no sessions\n", "A still has a session");
    no_route(console, a, b)?;
    console.say("B was told (AdminDown) and is Down at once, without waiting for a timeout:")?;
    console.wait("the session of B to be Down by remote_admin", || {
        Ok(session(console, b)?.is_down("remote_admin").then_some(()))
    })?;
    b.wait_log(console, "route withdrawn")?;
    for host in [&mut *a, &mut *b] {
        host.show_news(console)?;
    }
    console.show(&b.ask("sessions"))?;
    no_route(console, b, a)?;
    console.say(
        "B goes on asking, more slowly. A drops what it gets (drop_unknown_peer) and sends nothing\n\
         any more:",
    )?;
    silence(console, a, b)
}

/// Nothing goes from A to B while B still asks.
fn silence(console: &mut Console, a: &Host, b: &Host) -> anyhow::Result<()> {
    let asked = || counter(console, a, "drop_unknown_peer");
    let sent = || {
        let answered = counter(console, a, "rx_answered")?;
        anyhow::Ok(answered + counter(console, a, "tx_originated")?)
    };
    let asked_before = asked()?;
    console.wait("a packet of B at A", || {
        Ok((asked()? > asked_before).then_some(()))
    })?;
    let (sent_before, received_before) = (sent()?, in_kernel(console, b)?.received);
    let wanted = asked()? + 3;
    console.wait("three more packets of B at A", || {
        Ok((asked()? >= wanted).then_some(()))
    })?;
    let (sent, received) = (sent()?, in_kernel(console, b)?.received);
    let names = "'COUNTER|drop_unknown_peer|rx_answered|tx_originated'";
    console.show(&format!("{} | grep -E {names}", a.ask("counters")))?;
    ensure!(sent == sent_before, "A has sent {}", sent - sent_before);
    ensure!(
        received == received_before,
        "B has received {}",
        received - received_before
    );
    console.say("While the last three of them came in, A has sent 0 packets and B has received 0.")
}

/// SIGTERM takes everything back.
pub(super) fn stop(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    console.say("SIGTERM: an agent takes back all that it has put into the system, and ends.")?;
    for host in [&mut *a, &mut *b] {
        let pid = host.agent()?.pid();
        console.show(&format!("kill -TERM {pid}"))?;
        let agent = host.agent()?;
        let status = console.wait("the agent to end", || agent.ended())?;
        ensure!(status.success(), "the agent of {}: {status}", host.name);
        ensure!(
            !host.pin_dir().exists(),
            "{} is still there",
            host.pin_dir().display()
        );
        host.show_news(console)?;
        console.show_failing(&format!("ls {}", host.pin_dir().display()))?;
    }
    no_route(console, b, a)
}
