//! A peer that does not exist: nobody makes it Up.

use std::time::Duration;

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_common::session::Mode;
use dz_tests::bed;
use dz_tests::harness::Test;
use dz_tests::wait::{eventually, holds};

use crate::blind::{Blind, exits};
use crate::scene::{Attach, Scene, VICTIM, Wire, ours};

/// For how long nothing may happen.
const CALM: Duration = Duration::from_secs(5);

pub(super) fn tests() -> Vec<Test> {
    [Attach::Layer3, Attach::Ethernet, Attach::Xdp]
        .map(|attach| {
            let name = format!("{}::ghost", attach.name());
            Test::new(name, &attach.needs(), move || ghost(attach))
        })
        .into()
}

fn ghost(attach: Attach) -> Result<()> {
    let scene = Scene::new(attach)?;
    let agent = scene.agent_alone()?;
    scene.connect(&agent, &[VICTIM])?;
    let blind = Blind::start(&scene.wire, [0x1234_5678, 1]);
    let first = ours(agent.home(), VICTIM)?;
    // On Ethernet the far end's kernel tells where the address is.
    eventually(bed::PATIENCE, "a stateless answer", || {
        let answers = exits(&agent, "rx_unproven_answered")?;
        ensure!(answers > 5, "{answers}");
        anyhow::Ok(())
    })?;
    holds(CALM, "a session in Down", || {
        let session = ours(agent.home(), VICTIM)?;
        ensure!(
            session.state == State::Down
                && session.transitions == first.transitions
                && session.peer_discr == 0
                && session.peer_mode == Mode::Unknown
                && session.detect_deadline_ns == 0,
            "{session:?}"
        );
        anyhow::Ok(())
    })?;
    ensure!(bed::route_to(&scene.here, VICTIM)?.is_empty());
    println!("{} blind packets", blind.end()?);
    answers_go_to_the_peer(&scene)
}

/// On Ethernet nothing was sent to the station that the packets came from.
fn answers_go_to_the_peer(scene: &Scene) -> Result<()> {
    let Wire::Ethernet { raw, .. } = &*scene.wire else {
        return Ok(());
    };
    let mut answers = 0;
    while let Some(frame) = dz_tests::receive::Receive::try_recv(raw)? {
        ensure!(
            frame.get(..6) != Some(&crate::scene::ELSEWHERE),
            "{frame:02x?}"
        );
        answers += 1;
    }
    ensure!(answers > 0, "nothing was seen on the wire");
    Ok(())
}
