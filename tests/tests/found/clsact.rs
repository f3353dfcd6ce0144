//! Below Linux 6.6 our programs are filters of the clsact qdisc.

use std::time::Duration;

use anyhow::{Result, ensure};
use aya::EbpfLoader;
use aya::programs::TcAttachType;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact};
use dz_agent::datapath::OBJECT;
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bed::{Bed, INTERFACE};
use dz_tests::harness::Test;
use dz_tests::load;

use crate::scene::{NEEDS, Scene};

/// As `clsact.rs` of the agent has it.
const PRIORITY: u16 = 44_880;

pub(crate) fn tests() -> Vec<Test> {
    if attached::by_tcx() {
        return Vec::new();
    }
    vec![
        Test::new("clsact::deleted", &NEEDS, deleted),
        Test::new("clsact::others_at_our_place", &NEEDS, others_at_our_place),
    ]
}

fn deleted() -> Result<()> {
    let scene = Scene::new("clsact")?;
    let delete = format!("tc qdisc delete dev {INTERFACE} clsact");
    scene.bed.here.command(&delete)?;
    scene.until_mended("ingress", 1)?;
    scene.until_mended("gate", 1)
}

/// Somebody else's filter has our priority and handle: it is left alone, and named.
fn others_at_our_place() -> Result<()> {
    let bed = Bed::new("place", Duration::ZERO)?;
    let netns = &bed.here;
    // Of a name that is not one of our filters'; it never runs here.
    let mut theirs = load::object(&mut EbpfLoader::new(), OBJECT)?;
    let program = load::classifier(&mut theirs, "dz_control")?;
    netns.run(|| -> Result<()> {
        qdisc_add_clsact(INTERFACE)?;
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: PRIORITY,
            handle: TcHandle::new(0, 1),
            classid: None,
        });
        program.attach_with_options(INTERFACE, TcAttachType::Egress, options)?;
        Ok(())
    })?;
    let shown = || netns.command(&format!("tc filter show dev {INTERFACE} egress"));
    let before = shown()?;
    let mut agent = Agent::spawn_in(Home::new()?, netns, &["--interface", INTERFACE])?;
    let status = agent.process().wait()?;
    ensure!(status.code() == Some(5), "{status}");
    ensure!(shown()? == before, "{before}\n{}", shown()?);
    ensure!(attached::programs(netns, INTERFACE)? == 1, "ours is left");
    Ok(())
}
