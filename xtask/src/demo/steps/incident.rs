//! The incident that the project exists for, as far as one host can see it.

use std::fs::{self, File};
use std::net::Ipv4Addr;

use anyhow::{Context, ensure};

use super::super::console::Console;
use super::super::host::Host;
use super::super::observe::{counter, session};
use super::super::parts::Demo;
use super::setup::both_up;

/// A's public address, and the NIC that holds it.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const NIC: &str = "nic0";
/// How often B asks for the old address before we look at what A has sent.
const ASKED_AGAIN: u64 = 5;

/// A has disconnected. Its allocated address goes, and it connects with its public one.
pub(super) fn without_an_allocated_address(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo {
        console,
        a,
        b,
        stage,
    } = demo;
    let old = a.address;
    console.say(&format!(
        "This used to be an incident: sessions outlived their address, and a log filled up with\n\
         \"sendmsg: network is unreachable\". A takes its allocated address {old} off the tunnel and\n\
         connects again without one (plain IBRL): with {PUBLIC}, its public address, which its NIC\n\
         holds. Everything that A sends into the tunnel is captured meanwhile."
    ))?;
    let capture = a.scratch("capture");
    let file = File::create(&capture).with_context(|| capture.display().to_string())?;
    let wire = stage.wire();
    let line = format!(
        "nsenter --net=/run/netns/{wire} tcpdump -n -l -i {} -Q in ip",
        a.port
    );
    console.line(&format!("{line} &> {} &", capture.display()))?;
    let _tcpdump = console.background(&line, file)?;
    console.wait("tcpdump", || {
        let text = fs::read_to_string(&capture)?;
        Ok(text.contains("listening on").then_some(()))
    })?;
    let netns = &a.netns;
    for line in [
        format!("ip -n {netns} address delete {old}/32 dev doublezero0"),
        format!("ip -n {wire} link add port-nic up type veth peer name {NIC} netns {netns}"),
        format!("ip -n {netns} address add {PUBLIC}/24 dev {NIC}"),
        format!("ip -n {netns} link set {NIC} up"),
    ] {
        console.show(&line)?;
    }
    console.say(
        "Nobody names the local address. A GRE tunnel starts from the public one, which tells the\n\
         agent enough; this veth does not, and so a route says which source the tunnel is to have.",
    )?;
    let network = "10.99.0.0/24";
    console.show(&format!(
        "ip -n {netns} route add {network} via {} dev doublezero0 src {PUBLIC}",
        b.link
    ))?;
    console.show(&a.ask(&format!("connect {} --via {}", b.address, b.link)))?;
    a.address = PUBLIC;
    console.say("B, too, is told of the new address, and forgets the old one only afterwards.")?;
    console.show(&b.ask(&format!(
        "connect {PUBLIC} --local {} --via {}",
        b.address, a.link
    )))?;
    still_asked(console, a)?;
    console.show(&b.ask(&format!("disconnect {old}")))?;
    both_up(demo)?;
    let Demo { console, a, b, .. } = demo;
    console.say("Sessions and routes of A hold the public address only:")?;
    let sessions = console.show(&a.ask("sessions"))?;
    ensure!(
        sessions.contains(&format!("{PUBLIC} ")) && !sessions.contains(&format!("{old} ")),
        "a session from another address than {PUBLIC}"
    );
    let routes = console.show(&format!("ip -n {} route show proto 144", a.netns))?;
    ensure!(
        routes.contains(&format!("src {PUBLIC}")) && !routes.contains(&format!("src {old}")),
        "the route has another source"
    );
    console.show(&a.inside(&format!("ping -c 1 -W 5 {}", b.address)))?;
    console
        .say("What A has sent, by source. None from the old address, and nothing has failed:")?;
    let captured = console.wait("packets from the public address in the capture", || {
        let text = fs::read_to_string(&capture)?;
        Ok(text
            .contains(&format!("IP {PUBLIC}.44880 >"))
            .then_some(text))
    })?;
    let path = capture.display();
    console.show(&format!("grep -c 'IP {PUBLIC}[. ]' {path}"))?;
    console.show_failing(&format!("grep -c 'IP {old}[. ]' {path}"))?;
    ensure!(!is_from(&captured, old), "A has sent from {old}");
    for name in ["tx_failed", "tx_no_neighbour", "rx_answer_failed"] {
        let failed = counter(console, a, name)?;
        ensure!(failed == 0, "{name} of A is {failed}");
    }
    for host in [&mut *a, &mut *b] {
        for word in ["unreachable", "ERROR"] {
            ensure!(
                !host.has_logged(word)?,
                "the log of {} says {word}",
                host.name
            );
        }
        host.show_news(console)?;
    }
    ensure!(session(console, a)?.is_up(), "A is not Up");
    Ok(())
}

/// B goes on asking for the old address, which is nobody's any more.
fn still_asked(console: &Console, a: &Host) -> anyhow::Result<()> {
    let asked = || counter(console, a, "pass_not_local");
    let wanted = asked()? + ASKED_AGAIN;
    console.wait("packets of B to A's old address", || {
        Ok((asked()? >= wanted).then_some(()))
    })
}

/// Whether tcpdump shows a packet from an address, of whatever protocol: `.` and the port follow, if
/// there is one.
fn is_from(captured: &str, address: Ipv4Addr) -> bool {
    [".", " "]
        .map(|after| format!("IP {address}{after}"))
        .iter()
        .any(|shown| captured.contains(shown))
}
