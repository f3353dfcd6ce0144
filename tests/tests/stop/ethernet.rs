//! An agent and a peer on Ethernet, and somebody who reads the wire at the peer's end.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::{Packet, State};
use dz_common::session::{DownReason, Timers};
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::frame::parse_udp;
use dz_tests::netns::Netns;
use dz_tests::raw::RawSocket;
use dz_tests::route_log::RouteLog;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::{eventually, join, readable};

/// Our interval, ms: with it all farewells are sent within 100 ms.
const INTERVAL_MS: u32 = 1_000;
/// Detection takes 20 s and more: what happens before cannot be a timeout.
pub(crate) const MULTIPLIER: u8 = 20;
const FAREWELLS: usize = 3;
/// From the first farewell to the last, as they are sent, and what the reader of the wire may be late by.
const SPREAD: Duration = Duration::from_millis(90);
const LATE: Duration = Duration::from_millis(45);
/// Within what the last one has left, on a machine that may be busy.
const LAST: Duration = Duration::from_secs(1);
/// How long the reader of the wire sleeps at most.
const NAP: Duration = Duration::from_millis(100);

/// Whose clock makes most packets that the session lives from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Ours,
    /// We only answer, and our own clock has no need of a next hop.
    Peers,
}

/// Two hosts on one segment.
pub(crate) struct Segment {
    pub(crate) here: Netns,
    pub(crate) there: Netns,
    pub(crate) peer: UdpPeer,
    pub(crate) wire: Reader,
}

impl Segment {
    pub(crate) fn new(label: &str, clock: Clock) -> Result<Self> {
        let (here, there) = (Netns::new(label)?, Netns::new(label)?);
        veth::pair(
            &End::new(&here, INTERFACE, "169.254.7.0/31"),
            &End::new(&there, INTERFACE, "169.254.7.1/31"),
        )?;
        let wire = Reader::start(RawSocket::open(&there, INTERFACE)?);
        let interval_ms = match clock {
            Clock::Ours => 3 * INTERVAL_MS,
            Clock::Peers => INTERVAL_MS / 4,
        };
        let config = UdpPeerConfig {
            timers: Timers {
                desired_min_tx_us: interval_ms * 1_000,
                required_min_rx_us: INTERVAL_MS * 1_000,
                detect_mult: MULTIPLIER,
                backoff_cap_us: 1_000_000,
                ..Timers::DEFAULT
            },
            ..UdpPeerConfig::new(THERE)
        };
        let peer = there.run(|| UdpPeer::spawn(config)).context("UDP peer")?;
        peer.add_session(HERE);
        Ok(Self {
            here,
            there,
            peer,
            wire,
        })
    }

    /// An agent in this home.
    pub(crate) fn start(&self, home: Home) -> Result<Agent> {
        let (interval, multiplier) = (format!("{INTERVAL_MS}ms"), MULTIPLIER.to_string());
        // What the peer sends is not to be slowed down by what we want to receive.
        let mut arguments = vec!["--interface", INTERFACE, "--rx-interval", "250ms"];
        arguments.extend(["--tx-interval", &interval, "--detect-mult", &multiplier]);
        Agent::start_in(home, &self.here, &arguments)
    }

    /// An agent with the peer Up, and its route.
    pub(crate) fn up(&self) -> Result<Agent> {
        let agent = self.start(Home::new()?)?;
        bed::connect(&agent)?;
        bed::peer_until(&self.peer, State::Up)?;
        bed::until(agent.home(), State::Up)?;
        bed::until_route(&self.here, THERE, true)?;
        Ok(agent)
    }

    /// From now on nobody answers when we ask for the peer's Ethernet address, and nobody tells us.
    pub(crate) fn mute_arp(&self) -> Result<()> {
        let mac = veth::mac(&self.here, INTERFACE)?;
        let mac = veth::mac_text(mac);
        self.there.ip(&format!(
            "neighbour replace {HERE} lladdr {mac} nud permanent dev {INTERFACE}"
        ))?;
        self.answer_arp(false)?;
        self.forget_neighbours()
    }

    /// Whether the far host answers ARP.
    pub(crate) fn answer_arp(&self, answer: bool) -> Result<()> {
        let ignore = if answer { 0 } else { 8 };
        let line = format!("sysctl -qw net.ipv4.conf.{INTERFACE}.arp_ignore={ignore}");
        self.there.command(&line).map(drop)
    }

    /// The peer's device gets another Ethernet address, which our host knows at once.
    pub(crate) fn move_peer(&self, mac: [u8; 6]) -> Result<()> {
        let mac = veth::mac_text(mac);
        self.there
            .ip(&format!("link set {INTERFACE} address {mac}"))?;
        self.here
            .ip(&format!(
                "neighbour replace {THERE} lladdr {mac} nud permanent dev {INTERFACE}"
            ))
            .map(drop)
    }

    /// Our host forgets the peer's Ethernet address.
    pub(crate) fn forget_neighbours(&self) -> Result<()> {
        self.here
            .ip(&format!("neighbour flush dev {INTERFACE}"))
            .map(drop)
    }

    /// The peer is Down because it was told so, three times, over a while, and before its route was gone.
    pub(crate) fn told(&self, routes: &RouteLog, since_ns: u64) -> Result<()> {
        bed::peer_until(&self.peer, State::Down)?;
        let theirs = self.peer.session(HERE).context("no session")?;
        let change = theirs.changes.last().context("no change")?;
        ensure!(change.reason == DownReason::RemoteAdmin, "{theirs:?}");
        let said = eventually(PATIENCE, "three farewells", || {
            let said = self.wire.farewells(since_ns);
            ensure!(said.len() == FAREWELLS, "{} farewells", said.len());
            anyhow::Ok(said)
        })?;
        let from_first = |ns: u64| Duration::from_nanos(ns - said[0]);
        let (second, third) = (from_first(said[1]), from_first(said[2]));
        ensure!(
            (SPREAD - LATE..LAST).contains(&third) && second > Duration::ZERO,
            "{second:?} and {third:?} after the first"
        );
        let changes = routes.all()?;
        let gone = changes
            .iter()
            .find(|change| change.gone && change.route.dst == THERE);
        let gone = gone.context("its route has not gone")?;
        ensure!(
            said[0] < gone.read_ns + LATE.as_nanos() as u64,
            "told after its route was gone"
        );
        let before_ms = (gone.read_ns as f64 - said[0] as f64) / 1e6;
        println!(
            "told {before_ms:.1} ms before the route was gone, again {second:?} and {third:?} later"
        );
        Ok(())
    }
}

/// A packet of ours at the peer's end of the wire.
struct Heard {
    at_ns: u64,
    /// Its Ethernet destination.
    to: [u8; 6],
    packet: Packet,
}

/// Reads what arrives at the peer's end of the wire.
pub(crate) struct Reader {
    heard: Arc<Mutex<Vec<Heard>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(socket: RawSocket) -> Self {
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let thread = thread::spawn({
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(Some((at_ns, frame))) = socket.try_recv_stamped() {
                        let Some(packet) = from_us(at_ns, &frame) else {
                            continue;
                        };
                        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                        heard.push(packet);
                    } else {
                        let _ = readable(socket.as_fd(), NAP);
                    }
                }
            }
        });
        Self {
            heard,
            stop,
            thread: Some(thread),
        }
    }

    /// When AdminDown came in. Nothing else may have since the first.
    pub(crate) fn farewells(&self, since_ns: u64) -> Vec<u64> {
        let heard = self.heard();
        let heard = heard.iter().filter(|heard| heard.at_ns >= since_ns);
        heard
            .skip_while(|heard| heard.packet.state != State::AdminDown)
            .map(|heard| heard.at_ns)
            .collect()
    }

    /// How many packets of ours have come in.
    pub(crate) fn count(&self) -> usize {
        self.heard().len()
    }

    /// Where the last packets of ours were to go.
    pub(crate) fn last_destinations(&self, most: usize) -> Vec<[u8; 6]> {
        let heard = self.heard();
        let last = heard.iter().rev().take(most);
        last.map(|heard| heard.to).collect()
    }

    fn heard(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

fn from_us(at_ns: u64, frame: &[u8]) -> Option<Heard> {
    let udp = parse_udp(frame.get(14..)?)?;
    if *udp.src.ip() != HERE {
        return None;
    }
    Some(Heard {
        at_ns,
        to: frame.first_chunk().copied()?,
        packet: Packet::decode(&udp.payload).ok()?,
    })
}
