//! Below Linux 6.6 the programs are filters of the clsact qdisc. An agent on this kernel does not make
//! them; here the test attaches the real programs as an agent does there, and `purge` finds them.

use anyhow::{Result, ensure};
use aya::programs::TcAttachType;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
};
use aya::{Ebpf, EbpfLoader};
use dz_agent::datapath::OBJECT;
use dz_tests::agent::Home;
use dz_tests::harness::Test;
use dz_tests::load;
use dz_tests::netns::Netns;
use dz_tests::tun::Tun;

use crate::paths::{done, purge};
use crate::scene::NEEDS;

/// As `clsact.rs` of the agent has it.
const PRIORITY: u16 = 44_880;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("filters::purge", &NEEDS, purged)]
}

/// `both0` has both of ours; `in0` and `out0` have one of ours on one side, and somebody else's in
/// the very same place on the other; `none0` has somebody else's in our places only.
fn purged() -> Result<()> {
    let home = Home::nested()?;
    let netns = Netns::new("filters")?;
    let names = ["both0", "in0", "out0", "none0"];
    let tuns: Result<Vec<_>> = names
        .iter()
        .map(|name| Tun::new(&netns, name, &[]))
        .collect();
    let _tuns = tuns?;
    let mut ours = load::object(&mut EbpfLoader::new(), OBJECT)?;
    use TcAttachType::{Egress, Ingress};
    for (name, hook, program) in [
        ("both0", Ingress, "dz_tc_l3"),
        ("both0", Egress, "dz_gate_l3"),
        ("in0", Ingress, "dz_tc_l3"),
        ("out0", Egress, "dz_gate_l3"),
    ] {
        attach(&netns, &mut ours, program, name, hook, PRIORITY)?;
    }
    // Somebody else's program of a name that is not ours: the same code, for it never runs here.
    let mut theirs = load::object(&mut EbpfLoader::new(), OBJECT)?;
    for (name, hook, priority) in [
        ("in0", Egress, PRIORITY),
        ("out0", Ingress, PRIORITY),
        ("none0", Ingress, PRIORITY),
        ("none0", Egress, PRIORITY),
        ("both0", Ingress, 7),
        ("both0", Egress, 50_000),
    ] {
        attach(&netns, &mut theirs, "dz_control", name, hook, priority)?;
    }
    let shown =
        |name: &str, hook: &str| netns.command(&format!("tc filter show dev {name} {hook}"));
    let all = || -> Result<Vec<String>> {
        let mut all = Vec::new();
        for name in names {
            for hook in ["ingress", "egress"] {
                let lines = shown(name, hook)?;
                all.extend(lines.lines().map(|line| format!("{name} {hook}: {line}")));
            }
        }
        Ok(all)
    };
    let before = all()?;
    let is_ours = |line: &&String| line.contains("dz_tc_l3") || line.contains("dz_gate_l3");
    ensure!(before.iter().filter(is_ours).count() == 4, "{before:#?}");

    let dry = done(&purge(&netns, &home, &["--dry-run"])?)?;
    ensure!(all()? == before, "a dry run: {:#?}", all()?);
    let said = done(&purge(&netns, &home, &[])?)?;
    ensure!(
        said == dry.replace("would remove", "removed"),
        "{dry}, then {said}"
    );
    let lines: Vec<_> = said.lines().collect();
    let removed = [
        "removed program on both0 (tc filter)",
        "removed gate on both0 (tc filter)",
        "removed program on in0 (tc filter)",
        "removed gate on out0 (tc filter)",
    ];
    ensure!(lines == removed, "{said}");
    let after = all()?;
    ensure!(!after.iter().any(|line| is_ours(&line)), "{after:#?}");
    let theirs = |line: &&String| line.contains("handle") && !is_ours(line);
    let (kept, found): (Vec<_>, Vec<_>) = (
        before.iter().filter(theirs).collect(),
        after.iter().filter(theirs).collect(),
    );
    ensure!(
        kept.len() == 6 && kept == found,
        "{kept:#?}, now {found:#?}"
    );
    let again = done(&purge(&netns, &home, &[])?)?;
    ensure!(again == "nothing to purge\n", "{again}");
    Ok(())
}

/// As the agent does: by netlink, with a priority and a handle, not bound to any file.
fn attach(
    netns: &Netns,
    object: &mut Ebpf,
    program: &str,
    device: &str,
    hook: TcAttachType,
    priority: u16,
) -> Result<()> {
    let program = load::classifier(object, program)?;
    netns.run(|| {
        // There already from the other side.
        let _ = qdisc_add_clsact(device);
        let options = TcAttachOptions::Netlink(NlOptions {
            priority,
            handle: TcHandle::new(0, 1),
            classid: None,
        });
        let id = program.attach_with_options(device, hook, options)?;
        let link: SchedClassifierLink = program.take_link(id)?;
        // Its drop would take the filter away.
        std::mem::forget(link);
        Ok(())
    })
}
