//! Datagrams of several packets in one (UDP GSO): a sender on this host's own virtual link may hand them
//! over like that. Whatever is counted as sent has arrived.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::counters::Counters;
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::netns::Netns;
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use crate::bed::{Attach, DEVICE, PATIENCE};
use crate::liveness::{DOWN, Liveness, UP};
use crate::peer::{LOCAL, PORT};

const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const INTERVAL_US: u32 = 50_000;
const PACKET_LEN: i32 = 40;
/// Datagrams once the agent stands still, each an interval after the one before.
const ROUNDS: u64 = 8;
/// As many of them are answered, if nothing is wrong.
const ENOUGH: u64 = 5;

/// Three packets in one.
pub(crate) fn packets(attach: Attach) -> Result<()> {
    let counted = play(attach, PACKET_LEN, 3)?;
    match attach {
        // The sender's kernel cuts for a driver with a program.
        Attach::TcLayer3 | Attach::TcEthernet | Attach::XdpNative => {
            ensure!(counted.rx_answered >= ENOUGH, "{counted:?}");
        }
        Attach::XdpGeneric => {
            ensure!(counted.rx_long >= ENOUGH, "{counted:?}");
            let answered = counted.rx_answered + counted.rx_unproven_answered;
            ensure!(answered == 0, "{counted:?}");
        }
    }
    Ok(())
}

/// One packet in two halves: as long as one, and to be cut all the same.
pub(crate) fn halves() -> Result<()> {
    let counted = play(Attach::TcEthernet, PACKET_LEN / 2, 1)?;
    ensure!(counted.rx_answered >= ENOUGH, "{counted:?}");
    Ok(())
}

/// Plays a peer that sends so many packets at a time, to be cut into segments of this length; returns what
/// the session's address has counted.
fn play(attach: Attach, segment_len: i32, packets: usize) -> Result<Counters> {
    let (near, far) = (Netns::new("segments")?, Netns::new("segments-far")?);
    let address = format!("{FAR}/24");
    veth::pair(
        &End::new(&near, DEVICE, "10.77.0.1/24"),
        &End::new(&far, "far0", &address),
    )?;
    // Only with checksum offload does the kernel take segments.
    far.command("ethtool -K far0 tx on tx-udp-segmentation on")?;
    let _pass = match attach {
        // Without it the driver has nowhere to put what XDP_TX sends.
        Attach::XdpNative => Some(Bare::attach(&far, "far0", Program::EmptyXdp)?),
        _ => None,
    };
    let socket = far.run(|| UdpSocket::bind((FAR, PORT)))?;
    setsockopt(&socket, UdpGsoSegment, &segment_len)?;
    let mut options = vec!["--interface", DEVICE, "--attach", attach.argument()];
    options.extend(["--metrics-listen=off", "--max-sessions=128"]);
    options.extend(["--tx-interval=50ms", "--rx-interval=50ms"]);
    let mut agent = Agent::start(&near, &options)?;
    agent.cli(&["connect", &FAR.to_string(), "--local", &LOCAL.to_string()])?;

    socket.set_read_timeout(Some(PATIENCE))?;
    let mut heard = hear(&socket)?.context("nothing from the agent")?;
    let mut arrived = 1;
    socket.set_read_timeout(Some(Duration::from_micros(INTERVAL_US.into())))?;
    let say = |heard: &Heard| {
        let said = Liveness {
            interval_us: INTERVAL_US,
            ..Liveness::new(heard.my_discr)
        };
        // Down until we have been heard.
        let state = if heard.state == DOWN { DOWN } else { UP };
        let datagram = said.in_state(state).build().repeat(packets);
        socket.send_to(&datagram, (LOCAL, PORT))
    };
    eventually(PATIENCE, "Up", || {
        say(&heard)?;
        if let Some(packet) = hear(&socket)? {
            (heard, arrived) = (packet, arrived + 1);
        }
        ensure!(heard.state == UP, "not Up: {heard:?}");
        anyhow::Ok(())
    })?;

    // From here on nothing is sent but answers.
    agent.process().freeze()?;
    for _ in 0..ROUNDS {
        std::thread::sleep(Duration::from_micros(INTERVAL_US.into()));
        say(&heard)?;
    }
    let reader = MapReader::from_pins(agent.home().pin_dir())?;
    let entry = dz_tests::bed::entry(agent.home())?;
    let counted = reader.counters(entry.block)?;
    let sent = counted.rx_answered + counted.rx_unproven_answered + counted.tx_originated;
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    eventually(PATIENCE, "all that was sent", || {
        while hear(&socket)?.is_some() {
            arrived += 1;
        }
        ensure!(arrived == sent, "{arrived} of {sent}: {counted:?}");
        anyhow::Ok(())
    })?;
    agent.process().signal(nix::sys::signal::Signal::SIGCONT)?;
    Ok(counted)
}

/// The agent's state and discriminator, as a packet of its says.
#[derive(Debug)]
struct Heard {
    state: u8,
    my_discr: u32,
}

/// Takes the next packet; none if there is none in time.
fn hear(socket: &UdpSocket) -> Result<Option<Heard>> {
    let mut buffer = [0; 2_048];
    let len = match socket.recv(&mut buffer) {
        Ok(len) => len,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    ensure!(len == 40, "{len} bytes: {:02x?}", &buffer[..len]);
    Ok(Some(Heard {
        state: buffer[1] >> 6,
        my_discr: u32::from_be_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]),
    }))
}
