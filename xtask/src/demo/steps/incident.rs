//! The incident that the project exists for, as far as one host can see it.

use std::fs::{self, File};
use std::net::Ipv4Addr;

use anyhow::{Context, ensure};

use super::super::Demo;
use super::super::console::Console;
use super::super::host::Host;
use super::super::observe::{counter, session};
use super::setup::both_up;

/// A's second address.
const ANOTHER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
/// How often B asks for the old address before we look at what A has sent.
const ASKED_AGAIN: u64 = 5;

/// A has disconnected. Its address goes, and it connects with another one.
pub(super) fn another_address(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo {
        console,
        a,
        b,
        stage,
    } = demo;
    let old = a.address;
    console.say(&format!(
        "This used to be an incident: sessions outlived their address, and a log filled up with\n\
         \"sendmsg: network is unreachable\". A takes {old} off its interface and connects again\n\
         with {ANOTHER}. Everything that A sends is captured on the wire meanwhile."
    ))?;
    let capture = a.scratch("capture");
    let file = File::create(&capture).with_context(|| capture.display().to_string())?;
    let line = format!(
        "nsenter --net=/run/netns/{} tcpdump -n -l -i {} -Q in ip",
        stage.wire(),
        a.port
    );
    console.line(&format!("{line} &> {} &", capture.display()))?;
    let _tcpdump = console.background(&line, file)?;
    console.wait("tcpdump", || {
        let text = fs::read_to_string(&capture)?;
        Ok(text.contains("listening on").then_some(()))
    })?;
    let netns = &a.netns;
    console.show(&format!(
        "ip -n {netns} address delete {old}/32 dev doublezero0"
    ))?;
    console.show(&format!(
        "ip -n {netns} address add {ANOTHER}/32 dev doublezero0"
    ))?;
    a.address = ANOTHER;
    console.show(&a.ask(&format!(
        "connect {} --local {ANOTHER} --via {}",
        b.address, b.link
    )))?;
    console.say("B, too, is told of the new address, and forgets the old one only afterwards.")?;
    console.show(&b.ask(&format!(
        "connect {ANOTHER} --local {} --via {}",
        b.address, a.link
    )))?;
    still_asked(console, a)?;
    console.show(&b.ask(&format!("disconnect {old}")))?;
    both_up(demo)?;
    let Demo { console, a, b, .. } = demo;
    console.say("Sessions and routes of A hold the new address only:")?;
    let sessions = console.show(&a.ask("sessions"))?;
    ensure!(
        !sessions.contains(&format!("{old} ")),
        "a session from {old}"
    );
    let routes = console.show(&format!("ip -n {} route show proto 144", a.netns))?;
    ensure!(
        routes.contains(&format!("src {ANOTHER}")) && !routes.contains(&format!("src {old}")),
        "the route has another source"
    );
    console
        .say("What A has sent, by source. None from the old address, and nothing has failed:")?;
    let captured = console.wait("packets from the new address in the capture", || {
        let text = fs::read_to_string(&capture)?;
        Ok(text.contains(&from(ANOTHER)).then_some(text))
    })?;
    let path = capture.display();
    console.show(&format!("grep -c '{}' {path}", from(ANOTHER)))?;
    console.show_failing(&format!("grep -c '{}' {path}", from(old)))?;
    ensure!(!captured.contains(&from(old)), "A has sent from {old}");
    for name in ["tx_failed", "tx_no_neighbour", "rx_answer_failed"] {
        let failed = counter(console, a, name)?;
        ensure!(failed == 0, "{name} of A is {failed}");
    }
    for host in [&mut *a, &mut *b] {
        ensure!(!host.has_logged("unreachable")?, "the log of {}", host.name);
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

/// How tcpdump shows a liveness packet from an address.
fn from(address: Ipv4Addr) -> String {
    format!("IP {address}.44880 >")
}
