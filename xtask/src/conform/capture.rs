//! Captures of deployed clients talking: an Ethernet pcap file with two ends.
//!
//! Every packet has to decode, and each end is replayed: a session that is fed what that end
//! received, when it did, has to be in the state that the end said it was in whenever it sent.
//! What the capture does not show (how the ends were configured) is taken from what they say.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::Ipv4Addr;

use anyhow::{anyhow, ensure};
use dz_common::LIVENESS_PORT;
use dz_common::deployed::{Deployed, Release};
use dz_common::ingress::{self, Fence, Link};
use dz_common::packet::{Packet, State};
use dz_common::session::{Mode, Timers};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;

use super::rules::Differing;

/// One liveness packet in the capture.
struct Seen {
    at_ns: u64,
    src: [u8; 4],
    packet: Packet,
}

/// One end of the capture.
pub(super) struct Side {
    addr: Ipv4Addr,
    pub(super) sent: usize,
    pub(super) ups: u32,
}

/// What a capture showed.
pub(super) struct Report {
    pub(super) packets: usize,
    pub(super) sides: Vec<Side>,
    pub(super) differences: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets decoded", self.packets)?;
        for side in &self.sides {
            write!(
                f,
                "; {} sent {} (up {} times)",
                side.addr, side.sent, side.ups
            )?;
        }
        match self.differences.len() {
            0 => write!(f, ": all states reproduced"),
            n => write!(f, ": {n} differ"),
        }
    }
}

/// Decodes and replays a capture by the deployed rules. `ours`: what our rules make of each step.
pub(super) fn replay(file: impl Read, ours: &mut Differing) -> anyhow::Result<Report> {
    let seen = read(file)?;
    let mut ends = BTreeMap::new();
    for one in &seen {
        ends.entry(one.src).or_insert(one);
    }
    ensure!(
        ends.len() == 2,
        "liveness packets of {} ends, not 2",
        ends.len()
    );
    let mut report = Report {
        packets: seen.len(),
        sides: Vec::new(),
        differences: Vec::new(),
    };
    for first in ends.values() {
        report
            .differences
            .extend(replay_side(first, &seen, &mut report.sides, ours)?);
    }
    Ok(report)
}

fn read(file: impl Read) -> anyhow::Result<Vec<Seen>> {
    let mut reader = PcapReader::new(file)?;
    ensure!(
        reader.header().datalink == DataLink::ETHERNET,
        "not an Ethernet capture"
    );
    let mut seen = Vec::new();
    while let Some(frame) = reader.next_packet() {
        let frame = frame?;
        let bytes = frame.data.as_ref();
        let Ok(flow) = ingress::classify(bytes, Link::Ethernet, LIVENESS_PORT) else {
            continue;
        };
        let fence = Fence {
            port: LIVENESS_PORT,
            min_ttl: 0,
        };
        let received = ingress::decode(bytes, Link::Ethernet, &flow, fence)
            .map_err(|exit| anyhow!("packet {}: {}", seen.len(), exit.name()))?;
        let at_ns = u64::try_from(frame.timestamp.as_nanos())?;
        seen.push(Seen {
            at_ns,
            src: flow.src,
            packet: received.packet,
        });
    }
    Ok(seen)
}

/// Replays the end that sent `first`; returns where it said something else than the session.
fn replay_side(
    first: &Seen,
    seen: &[Seen],
    sides: &mut Vec<Side>,
    ours: &mut Differing,
) -> anyhow::Result<Vec<String>> {
    let addr = Ipv4Addr::from(first.src);
    let (timers, discr) = (timers_of(&first.packet), first.packet.my_discr);
    let mut end = Deployed::new(timers, discr, Release::Since0_32, first.at_ns);
    let mut sent = 0;
    let mut differences = Vec::new();
    // What was sent to an end before its own first packet found nobody there: it had not started.
    for (number, one) in seen
        .iter()
        .enumerate()
        .skip_while(|(_, one)| one.src != first.src)
    {
        if end.session.detect_deadline_ns <= one.at_ns {
            end.expire(end.session.detect_deadline_ns);
        }
        if one.src != first.src {
            let before = end;
            end.receive(&one.packet, one.at_ns);
            ours.received(&before, &end, &one.packet, one.at_ns)?;
            continue;
        }
        sent += 1;
        if one.packet.state == State::AdminDown {
            end.session.admin_down(one.at_ns); // a command, which only its announcement shows
        }
        ours.transmitted(&end, one.packet.version)?;
        let got = end.packet(one.packet.version);
        end.session.transmitted(one.at_ns, 0);
        if got != one.packet {
            differences.push(format!(
                "packet {number} of {addr}: expected {:?}, got {got:?}",
                one.packet
            ));
        }
    }
    sides.push(Side {
        addr,
        sent,
        ups: end.session.ups,
    });
    Ok(differences)
}

fn timers_of(packet: &Packet) -> Timers {
    Timers {
        desired_min_tx_us: packet.desired_min_tx_us,
        required_min_rx_us: packet.required_min_rx_us,
        detect_mult: packet.detect_mult,
        mode: if packet.passive {
            Mode::Passive
        } else {
            Mode::Active
        },
        ..Timers::DEFAULT
    }
}
