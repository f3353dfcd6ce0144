//! Somebody on the peer's host without any privilege, who knows everything, the discriminators too: he
//! can send from the peer's address, but not from the port that its agent holds.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_common::LIVENESS_PORT;
use dz_common::packet::{Packet, State, Version};
use dz_common::session::Session;
use dz_tests::harness::Test;
use dz_tests::nobody::become_nobody;
use dz_tests::udp_peer::Rules;

use crate::blind::exits;
use crate::scene::{Attach, LOCAL, Scene, VICTIM, WITNESS, ours, theirs, until_up};
use dz_tests::bed::PATIENCE;
use dz_tests::wait::eventually;

/// Packets of each kind.
const ROUNDS: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

pub(super) fn tests() -> Vec<Test> {
    [Attach::Layer3, Attach::Ethernet, Attach::Xdp]
        .map(|attach| {
            let name = format!("{}::nobody", attach.name());
            Test::new(name, &attach.needs(), move || nobody(attach))
        })
        .into()
}

fn nobody(attach: Attach) -> Result<()> {
    let scene = Scene::new(attach)?;
    let agent = scene.agent()?;
    let victim = scene.peer(VICTIM, Rules::Deployed)?;
    let witness = scene.peer(WITNESS, Rules::Deployed)?;
    let home = agent.home();
    let before = until_up(home, VICTIM, &victim)?;
    until_up(home, WITNESS, &witness)?;
    let changes = theirs(&victim)?.changes;
    let dropped = exits(&agent, "drop_source_port")?;
    let sent = scene.there.run(|| send_as_nobody(&before))?;
    eventually(PATIENCE, "all of them dropped", || {
        let now = exits(&agent, "drop_source_port")? - dropped;
        ensure!(now == sent, "{now} of {sent}");
        anyhow::Ok(())
    })?;
    println!("{sent} packets of nobody's dropped");
    for name in [
        "drop_unproven_admin_down",
        "rx_unproven_answered",
        "rx_remote_admin",
    ] {
        let count = exits(&agent, name)?;
        // The handshake has stateless answers of its own, but few.
        ensure!(count < ROUNDS as u64, "{name}: {count}");
    }
    let after = ours(home, VICTIM)?;
    let known = |session: &Session| {
        (
            session.transitions,
            session.state,
            session.peer_discr,
            session.peer_mode,
            session.peer_version,
            session.peer_desired_min_tx_us,
        )
    };
    ensure!(known(&after) == known(&before), "{before:?}\n{after:?}");
    ensure!(theirs(&victim)?.changes == changes);
    Ok(())
}

/// On a thread of its own, which has no privilege afterwards. Returns how many packets he has sent.
fn send_as_nobody(session: &Session) -> Result<u64> {
    become_nobody()?;
    let held = UdpSocket::bind((VICTIM, LIVENESS_PORT)).map(|_| ());
    let refused = held
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    ensure!(refused, "the peer's port: {held:?}");
    let sockets = [0, LIVENESS_PORT - 1, LIVENESS_PORT + 1, 61_000]
        .map(|port| UdpSocket::bind((VICTIM, port)));
    let mut sent = 0;
    for _ in 0..ROUNDS {
        for socket in &sockets {
            let socket = socket
                .as_ref()
                .map_err(|error| io::Error::from(error.kind()))?;
            for payload in payloads(session) {
                socket.send_to(&payload, (LOCAL, LIVENESS_PORT))?;
                sent += 1;
            }
        }
        std::thread::sleep(PAUSE);
    }
    Ok(sent)
}

/// Every state, echoing us, nothing and somebody else, by the peer's discriminator and by another; and
/// no packet at all.
fn payloads(session: &Session) -> Vec<Vec<u8>> {
    let mut payloads = vec![Vec::new(), vec![0x20; 39], vec![0; 400]];
    for state in State::ALL {
        for your_discr in [session.local_discr, 0, 0xdead_beef] {
            for my_discr in [session.peer_discr, 0xb0b0_0001] {
                let packet = Packet {
                    state,
                    detect_mult: 1,
                    my_discr,
                    your_discr,
                    desired_min_tx_us: 3_000_000,
                    required_min_rx_us: 3_000_000,
                    passive: true,
                    version: Version::new([9; 4]),
                    reserved_set: false,
                };
                payloads.push(packet.encode().to_vec());
            }
        }
    }
    payloads
}
