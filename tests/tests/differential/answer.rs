//! Answers, by the test's own reader.

use anyhow::{Context, ensure};
use dz_common::counters::Counter;
use dz_common::ingress::Link;
use dz_common::map::Config;
use dz_common::packet::PACKET_LEN;
use dz_tests::frame::{UdpChecksum, parse_udp};

use crate::model::{Arrival, Received};

/// Checks what an answer must be whoever built it.
pub(crate) fn check(config: &Config, arrival: &Arrival, received: &Received) -> anyhow::Result<()> {
    let effect = &received.effect;
    let counted = |exit: Counter| effect.counted.keys().any(|(_, name)| *name == exit.name());
    let stateless = counted(Counter::RxUnprovenAnswered);
    if !stateless && !counted(Counter::RxAnswered) {
        return Ok(());
    }
    let at = arrival.hook.link().ip_offset();
    let key = effect.key;
    let before = received.before.context("an answer without a session")?;
    let parsed = parse_udp(&effect.frame[at..]).context("an answer that is no UDP datagram")?;
    let sound = parsed.header_checksum_good
        && parsed.udp_checksum == UdpChecksum::Good
        && parsed.payload.len() == PACKET_LEN
        && effect.frame.len() == at + 68
        && parsed.src.ip().octets() == key.local
        && parsed.dst.ip().octets() == key.peer
        && parsed.src.port() == config.port
        && parsed.dst.port() == config.port
        && parsed.ttl == config.ttl
        && parsed.tos == config.tos;
    ensure!(sound, "an answer like this: {parsed:#?}");
    if arrival.hook.link() == Link::Ethernet {
        // Whoever has proved nothing may be anybody: the answer goes where the session's go.
        let to = if stateless {
            &before.neighbour[..]
        } else {
            &arrival.frame[6..12]
        };
        let led = effect.frame[..6] == *to && effect.frame[6..12] == arrival.frame[..6];
        ensure!(
            led,
            "the answer's Ethernet addresses: {:02x?}",
            &effect.frame[..12]
        );
    }
    if stateless {
        let session = effect.entry.context("an answer without a session")?.session;
        ensure!(
            session == before.session,
            "an unproven packet has changed its session"
        );
        let received = &arrival.frame[at + 28..at + 40];
        ensure!(
            parsed.payload[8..12] == received[4..8],
            "it echoes somebody else"
        );
    }
    Ok(())
}
