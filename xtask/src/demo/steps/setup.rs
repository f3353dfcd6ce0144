//! From nothing to a session that is Up.

use super::super::host::Host;
use super::super::observe::{counter, session};
use super::super::parts::Demo;

/// Namespaces, and a bridge between them.
pub(super) fn hosts(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo {
        console,
        a,
        b,
        stage,
    } = demo;
    console.say(
        "Each host is a network namespace with an interface doublezero0: a link address, and the\n\
         address that the other host is to reach. On a real host doublezero0 is a GRE tunnel. Here\n\
         it is one end of a veth pair, because not every kernel has GRE; the other ends are ports\n\
         of a bridge in a third namespace. The bridge is the wire, so that it can be cut while\n\
         both interfaces stay up.",
    )?;
    stage.make_folder()?;
    stage.mount_bpf_fs(console)?;
    let wire = stage.wire();
    for name in [&a.netns, &b.netns, &wire] {
        stage.add_namespace(console, name)?;
    }
    console.show(&format!(
        "ip -n {wire} link add bridge0 up type bridge stp_state 0"
    ))?;
    for host in [a, b] {
        let Host {
            netns,
            address,
            link,
            port,
            ..
        } = host;
        for line in [
            format!(
                "ip -n {wire} link add {port} up master bridge0 type veth peer name doublezero0 netns {netns}"
            ),
            format!("ip -n {netns} link set lo up"),
            format!("ip -n {netns} address add {link}/31 dev doublezero0"),
            format!("ip -n {netns} address add {address}/32 dev doublezero0"),
            format!("ip -n {netns} link set doublezero0 up"),
        ] {
            console.show(&line)?;
        }
    }
    Ok(())
}

/// Both agents.
pub(super) fn agents(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    console.say(
        "They attach in different ways: A with TC, B with generic XDP. A packet every 300 ms is\n\
         wanted, three missed ones make a peer Down, so a silent peer is detected after 900 ms.",
    )?;
    for host in [a, b] {
        host.start(console)?;
        host.show_news(console)?;
    }
    Ok(())
}

/// First A alone, then B too.
pub(super) fn connect(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    console.say(
        "A is told of B first. Nobody answers yet: the session is Down, and there is no route.",
    )?;
    let line = format!(
        "connect {} --local {} --via {}",
        b.address, a.address, b.link
    );
    console.show(&a.ask(&line))?;
    let ignored = "drop_unknown_peer";
    console.wait("A's packets at B, which does not know A", || {
        Ok((counter(console, b, ignored)? > 0).then_some(()))
    })?;
    let alone = session(console, a)?;
    anyhow::ensure!(alone.state == "down", "A is {}", alone.state);
    console.show(&a.ask("sessions"))?;
    console.say("Then B is told of A.")?;
    let line = format!(
        "connect {} --local {} --via {}",
        a.address, b.address, a.link
    );
    console.show(&b.ask(&line))?;
    both_up(demo)?;
    let Demo { console, a, b, .. } = demo;
    console.say(
        "Each agent logs the changes of state that its kernel part reports. The host that hears the\n\
         other first answers, from its kernel, with Init and an echo of the other's discriminator:\n\
         that proves who it is, and the other goes from Down to Up at once. Its answer echoes in\n\
         turn, and takes the first one Up, too.",
    )?;
    for host in [&mut *a, &mut *b] {
        host.wait_log(console, "to=\"up\"")?;
        host.wait_log(console, "route installed")?;
    }
    for host in [&mut *a, &mut *b] {
        host.show_news(console)?;
    }
    for host in [a, b] {
        console.show(&host.ask("sessions"))?;
    }
    Ok(())
}

/// Waits until both sessions are Up and their routes installed.
pub(super) fn both_up(demo: &Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    for host in [a, b] {
        let what = format!("the session of {} to be Up with its route", host.name);
        console.wait(&what, || Ok(session(console, host)?.is_up().then_some(())))?;
    }
    Ok(())
}
