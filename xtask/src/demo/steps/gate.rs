//! What becomes of packets for a peer that is Down.

use anyhow::ensure;

use super::super::observe::counter;
use super::super::parts::Demo;

/// A network besides the tunnel, which leads to B as well.
const UNDER: &str = "under0";

/// The wire is still cut: A's packets take the other network, but for those that must not.
pub(super) fn around(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    console.say(
        "Now the hosts get a second network, and A a second route into the tunnel that is\n\
         somebody else's, so that no withdrawal of ours takes it away. Only the gate at the\n\
         tunnel's egress keeps packets out of it.",
    )?;
    let (here, there, peer, link) = (&a.netns, &b.netns, b.address, b.link);
    for line in [
        format!("ip -n {here} link add {UNDER} type veth peer name {UNDER} netns {there}"),
        format!("ip -n {here} address add 192.0.2.1/30 dev {UNDER}"),
        format!("ip -n {there} address add 192.0.2.2/30 dev {UNDER}"),
        format!("ip -n {here} link set {UNDER} up"),
        format!("ip -n {there} link set {UNDER} up"),
        format!("ip -n {here} route add {peer}/32 via {link} dev doublezero0 proto 99 metric 50"),
        format!("ip -n {here} route add {peer}/32 via 192.0.2.2 dev {UNDER} metric 200"),
    ] {
        console.show(&line)?;
    }
    // B answers by the other network, which a strict filter would take for a forgery.
    let lax = "sh -c 'for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done'";
    console.show(&a.inside(lax))?;
    console.wait("A's agent to see the way around", || {
        let shown = console.read(&a.ask("sessions"))?;
        Ok(shown.contains(UNDER).then_some(()))
    })?;
    let route = console.show(&format!("ip -n {here} route get {peer}"))?;
    ensure!(
        route.contains("doublezero0"),
        "the route is not the tunnel's"
    );
    console.say("The route says doublezero0, which is cut. All the same B answers:")?;
    console.show(&a.inside(&format!("ping -c 3 -i 0.2 -I 192.0.2.1 {peer}")))?;
    let rerouted = counter(console, a, "gate_rerouted")?;
    ensure!(rerouted >= 3, "gate_rerouted of A is {rerouted}");
    console.say(&format!(
        "But {} is an address of the tunnel only. Nobody else may see it, so what comes from it\n\
         is dropped:",
        a.address
    ))?;
    let line = format!("ping -c 1 -W 1 -I {} {peer}", a.address);
    console.show_failing(&a.inside(&line))?;
    let shown = console.show(&format!("{} | grep -E 'COUNTER|gate_'", a.ask("counters")))?;
    ensure!(shown.contains("gate_confined"), "not counted");
    for line in [
        format!("ip -n {here} route delete {peer}/32 proto 99"),
        format!("ip -n {here} link delete {UNDER}"),
    ] {
        console.show(&line)?;
    }
    Ok(())
}
