//! A peer falls silent, and what goes between the two public addresses takes the NICs, in both
//! directions, until it is back: pings, and a connection that is there all the while. Agents at both
//! ends follow routes that stay as they are; only the gates move anything.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::LIVENESS_PORT;
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::{Requirement, Test};
use dz_tests::netns::Netns;
use dz_tests::wait::eventually;
use dz_tests::wire::Direction;
use socket2::{Domain, Protocol, Socket, Type};

use crate::scene::{NEEDS, NICS, PEER, PUBLIC, ROUTERS, nics, only_from};

/// Of each direction, bytes: some hundred packets.
const TRANSFER: usize = 512 << 10;
/// Packets that a transfer has at least in each direction: data is 1,436 bytes of a packet, and
/// acknowledgements may be for many, hence half.
const PACKETS: u64 = (TRANSFER / 1_436 / 2) as u64;
const PORT: u16 = 9_000;
/// For all of it, on a machine that may be busy.
const TRANSFER_TIME: Duration = Duration::from_secs(60);
const PINGS: u64 = 3;

pub(super) fn tests() -> Vec<Test> {
    let mut needs = NEEDS.to_vec();
    needs.push(Requirement::Tool("ping"));
    vec![Test::new("traffic::around_a_silent_peer", &needs, around)]
}

/// Both hosts, each with a public address on its NIC.
struct Pair {
    bed: Bed,
    agents: [Agent; 2],
    /// No liveness packet gets through.
    silent: Arc<AtomicBool>,
}

/// The way that all packets took, as the tunnel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tunnel,
    Nic,
}

impl Pair {
    fn new() -> Result<Self> {
        let bed = Bed::new("plain-traffic", Duration::ZERO)?;
        nics(&bed)?;
        let (nic, router) = (NICS[0], ROUTERS[0]);
        bed.there.ip(&format!("address add {PEER}/32 dev {nic}"))?;
        bed.here.ip(&format!("route add default via {router}"))?;
        bed.there.ip(&format!("route add default via {PUBLIC}"))?;
        let silent = Arc::new(AtomicBool::new(false));
        let is_silent = Arc::clone(&silent);
        bed.wire
            .set_loss(move |_, packet| is_silent.load(Ordering::Relaxed) && is_liveness(packet));
        let agents = [follower(&bed.here)?, follower(&bed.there)?];
        for (netns, peer, gateway, source) in [
            (&bed.here, PEER, THERE, PUBLIC),
            (&bed.there, PUBLIC, HERE, PEER),
        ] {
            let way = format!("via {gateway} dev {INTERFACE} src {source} proto bgp");
            netns.ip(&format!("route add {peer}/32 {way}"))?;
        }
        Ok(Self {
            bed,
            agents,
            silent,
        })
    }

    /// Waits until the sessions of both ends are in this state, with a way around.
    fn until(&self, state: State) -> Result<()> {
        for (agent, netns) in self.agents.iter().zip([&self.bed.here, &self.bed.there]) {
            let entry = bed::until(agent.home(), state)?;
            let nic = netns.ifindex(NICS[0])?;
            eventually(PATIENCE, "a way around by the NIC", || {
                let detour = bed::entry(agent.home())?.detour;
                ensure!(detour == nic, "{detour}: {entry:?}");
                anyhow::Ok(())
            })?;
        }
        Ok(())
    }

    /// Packets in the tunnel so far that are not about liveness, by direction.
    fn data(&self) -> [u64; 2] {
        let records = self.bed.wire.records();
        [Direction::AToB, Direction::BToA].map(|direction| {
            let data = records
                .iter()
                .filter(|record| record.direction == direction && !is_liveness(&record.packet));
            data.count() as u64
        })
    }

    /// Nothing but liveness has been in the tunnel meanwhile, or so many packets of either direction.
    fn takes(&self, way: Way, packets: u64, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.data();
        act()?;
        let now = self.data();
        let more = [now[0] - before[0], now[1] - before[1]];
        match way {
            Way::Tunnel => ensure!(more.iter().all(|more| *more >= packets), "{more:?}"),
            Way::Nic => ensure!(more == [0, 0], "in the tunnel: {more:?}"),
        }
        Ok(())
    }
}

fn follower(netns: &Netns) -> Result<Agent> {
    let mut words = vec!["--interface", INTERFACE, "--follow", "proto=bgp"];
    words.extend(["--tx-interval", "100ms", "--rx-interval", "100ms"]);
    words.extend(["--detect-mult", "30", "--metrics-listen=off"]);
    Agent::start_in(Home::new()?, netns, &words)
}

fn is_liveness(packet: &[u8]) -> bool {
    parse_udp(packet).is_some_and(|udp| udp.dst.port() == LIVENESS_PORT)
}

fn around() -> Result<()> {
    let pair = Pair::new()?;
    pair.until(State::Up)?;
    let (mut client, mut server) = connection(&pair.bed)?;
    let mut both = |way| -> Result<()> {
        let ping = format!("ping -c {PINGS} -i 0.2 -W 5 -I {PUBLIC} {PEER}");
        pair.takes(way, PINGS, || pair.bed.here.command(&ping).map(drop))?;
        pair.takes(way, PACKETS, || transfer(&mut client, &mut server))
    };
    for _ in 0..2 {
        both(Way::Tunnel).context("all is well")?;
        pair.silent.store(true, Ordering::Relaxed);
        pair.until(State::Down)?;
        both(Way::Nic).context("the peer is silent")?;
        pair.silent.store(false, Ordering::Relaxed);
        pair.until(State::Up)?;
    }
    both(Way::Tunnel).context("it is back")?;
    // The routes are their daemon's, and have never been touched.
    for (netns, peer) in [(&pair.bed.here, PEER), (&pair.bed.there, PUBLIC)] {
        let shown = netns.ip(&format!("route show to exact {peer}"))?;
        ensure!(
            shown.lines().count() == 1 && shown.contains("proto bgp"),
            "{shown}"
        );
    }
    only_from(&pair.bed.wire, &[PUBLIC])
}

/// A connection between the public addresses.
fn connection(bed: &Bed) -> Result<(TcpStream, TcpStream)> {
    let listener = bed.there.run(|| TcpListener::bind((PEER, PORT)))?;
    let client = bed.here.run(|| -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&std::net::SocketAddrV4::new(PUBLIC, 0).into())?;
        let peer = std::net::SocketAddrV4::new(PEER, PORT);
        socket.connect_timeout(&peer.into(), PATIENCE)?;
        Ok(socket.into())
    });
    let client = client.context("connecting")?;
    let (server, from) = listener.accept()?;
    ensure!(from.ip() == Ipv4Addr::from(PUBLIC.octets()), "{from}");
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(TRANSFER_TIME))?;
        stream.set_write_timeout(Some(TRANSFER_TIME))?;
    }
    Ok((client, server))
}

/// Sends to and fro, so that each direction carries data; what comes back is what was sent.
fn transfer(client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    let sent: Vec<u8> = (0..TRANSFER).map(|at| (at % 251) as u8).collect();
    for back in [false, true] {
        let (from, to) = if back {
            (&mut *server, &mut *client)
        } else {
            (&mut *client, &mut *server)
        };
        let mut received = vec![0; TRANSFER];
        std::thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| from.write_all(&sent));
            to.read_exact(&mut received).context("receiving")?;
            let written = writer.join();
            written.map_err(|_| anyhow::anyhow!("the writer panicked"))??;
            Ok(())
        })?;
        ensure!(received == sent, "something else was received");
    }
    Ok(())
}
