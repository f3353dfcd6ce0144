//! What there is to see while everything is well.

use std::fs;

use anyhow::{Context, ensure};

use super::super::console::{Console, Show};
use super::super::host::Host;
use super::super::observe::{counter, sessions_map};
use super::super::parts::Demo;

/// The routing tables, and what they are good for.
pub(super) fn routes(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    console.say(
        "The route to the other host, with protocol number 144 (ours), is there because the\n\
         session is Up. It is the only way to that address.",
    )?;
    for (host, other) in [(&*a, &*b), (&*b, &*a)] {
        let text = console.show(&format!("ip -n {} route", host.netns))?;
        ensure!(
            has_route(&text, host, other),
            "{} has no route to {}",
            host.name,
            other.name
        );
    }
    console.show(&a.inside(&format!("ping -c 1 -W 5 {}", b.address)))?;
    Ok(())
}

/// Whether `ip route` shows our route from one host to the other.
pub(super) fn has_route(text: &str, host: &Host, other: &Host) -> bool {
    let start = format!(
        "{} via {} dev doublezero0 proto 144",
        other.address, other.link
    );
    let source = format!("src {}", host.address);
    text.lines()
        .any(|line| line.starts_with(&start) && line.contains(&source))
}

/// Packets that the kernel answered by itself.
pub(super) fn counters(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    console.say(
        "rx_answered are packets that were answered on the way in, inside the kernel, without the\n\
         agent. tx_originated are those that the agent's clock asked the kernel to send.",
    )?;
    for host in [&*a, &*b] {
        let before = counter(console, host, "rx_answered")?;
        let what = format!("two more answers of {}", host.name);
        console.wait(&what, || {
            let now = counter(console, host, "rx_answered")?;
            Ok((now >= before + 2).then_some(()))
        })?;
        let text = console.show(&host.ask("counters"))?;
        ensure!(text.contains("rx_answered"), "no answers are shown");
    }
    Ok(())
}

/// The map itself.
pub(super) fn dump(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, b, .. } = demo;
    console.say(
        "The one true session lives in a BPF map, where bpftool reads it by its field names. It\n\
         prints each byte of an address as a number. In full:",
    )?;
    let text = console.show(&format!("bpftool map dump pinned {}", sessions_map(a)))?;
    let text: String = text.split_whitespace().collect();
    for (field, address) in [("local", a.address), ("peer", b.address)] {
        let bytes = address.octets().map(|byte| byte.to_string()).join(",");
        let shown = format!("\"{field}\":[{bytes}]");
        ensure!(text.contains(&shown), "bpftool does not show {shown}");
    }
    ensure!(text.contains("\"state\":\"Up\""), "the session is not Up");
    Ok(())
}

/// Both formats of the metrics.
pub(super) fn metrics(demo: &mut Demo) -> anyhow::Result<()> {
    let Demo { console, a, .. } = demo;
    console.say(
        "The metrics of A in the text format, and what Prometheus' own checker says of them:",
    )?;
    let text = a.scratch("metrics.txt").display().to_string();
    let before = counter(console, a, "rx_answered")?;
    let head = fetch(console, a, "", &text)?;
    let after = counter(console, a, "rx_answered")?;
    ensure!(
        head.contains("text/plain") && head.contains("version=0.0.4"),
        "not the text format 0.0.4"
    );
    let complaints = console.show(&format!("promtool check metrics < {text}"))?;
    ensure!(complaints.is_empty(), "promtool complains");
    console.say("Nothing, with exit code 0. Some of them:")?;
    console.show_part(
        &format!("grep -E '_(sessions|session_transitions_total|answered_total)' {text}"),
        Show::First(12),
    )?;
    let body = fs::read_to_string(&text).with_context(|| format!("reading {text}"))?;
    let answered = sample(&body, "doublezero_liveness_answered_total")?;
    ensure!(
        (before..=after).contains(&answered),
        "answered by the metrics: {answered}, by the counters: {before} to {after}"
    );
    console.say("Who asks for OpenMetrics gets OpenMetrics, with # EOF at the end:")?;
    let open = a.scratch("openmetrics.txt").display().to_string();
    let accept = "-H 'Accept: application/openmetrics-text; version=1.0.0' ";
    let head = fetch(console, a, accept, &open)?;
    ensure!(
        head.contains("application/openmetrics-text"),
        "not OpenMetrics"
    );
    let end = console.show(&format!("tail -n 2 {open}"))?;
    ensure!(end.ends_with("# EOF\n"), "the end is missing");
    Ok(())
}

/// Shows the headers and saves the body.
fn fetch(console: &mut Console, host: &Host, options: &str, file: &str) -> anyhow::Result<String> {
    let url = "http://127.0.0.1:44881/metrics";
    let line = format!("curl --silent --show-error --fail -D - {options}-o {file} {url}");
    console.show(&host.inside(&line))
}

/// The value of the only sample of a family.
fn sample(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{'))
    });
    let value = line.and_then(|line| line.rsplit(' ').next());
    let value = value.with_context(|| format!("no sample of {name}"))?;
    Ok(value.parse()?)
}
