//! Traffic for a peer: in the tunnel while its session is Up, beside it while it is not, and no
//! takeover changes that.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, INTERFACE, PATIENCE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::{Requirement, Test};
use dz_tests::netns::Netns;
use dz_tests::udp_peer::UdpPeer;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::capture::{addresses, is_gre};
use crate::scene::{
    A, Hosts, NEEDS, PAIRS, PATIENT, PEERS, UNDER, UNDER_HERE, agent, connect, nothing_failed,
    until_up,
};

const DETECT_MULT: u8 = 15;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const DATA: u16 = 9_000;
/// What a whole packet of the tunnel's MTU leaves to ICMP's payload.
const FULL_SIZE: usize = 1476 - 20 - 8;
/// Bytes over TCP: many full segments.
const BYTES: usize = 300_000;
const PEER: Ipv4Addr = PEERS[0];

pub(super) fn tests() -> Vec<Test> {
    let mut needs = NEEDS.to_vec();
    needs.push(Requirement::Tool("ping"));
    vec![
        Test::new("diverted::while_down", &needs, while_down),
        Test::new("takeover::restart", &NEEDS, || takeover(Signal::SIGUSR2)),
        Test::new("takeover::crash", &NEEDS, || takeover(Signal::SIGKILL)),
    ]
}

fn while_down() -> Result<()> {
    let hosts = Hosts::new()?;
    hosts.route_under()?;
    let mut agent = hosts.agent(DETECT_MULT)?;
    let peer = hosts.peer(PEER, DETECT_MULT)?;
    peer.add_session(A);
    connect(&agent, &[(A, PEER)])?;
    until_up(&agent, &hosts.here, &[(A, PEER)])?;
    // Somebody else's route into the tunnel stays when ours goes: only the gate keeps packets out.
    hosts.here.ip(&format!(
        "route add {PEER} dev {INTERFACE} proto 99 metric 50"
    ))?;
    until_confined(&agent)?;
    exchange(&hosts, true)?;

    peer.silence();
    bed::until(agent.home(), State::Down)?;
    until_detour(&agent, &hosts.here)?;
    exchange(&hosts, false)?;
    allocated_is_dropped(&hosts)?;

    peer.resume();
    until_up(&agent, &hosts.here, &[(A, PEER)])?;
    exchange(&hosts, true)?;
    nothing_failed(&mut agent)
}

/// Ping, one of full size that must not be fragmented, and TCP from an address of the underlay: all
/// that we send goes into the tunnel, or all of it beside the tunnel.
fn exchange(hosts: &Hosts, tunnelled: bool) -> Result<()> {
    let mark = hosts.from_here.mark();
    ping(&hosts.here, UNDER_HERE, "-c 2 -W 20")?;
    ping(
        &hosts.here,
        UNDER_HERE,
        &format!("-c 2 -W 20 -M do -s {FULL_SIZE}"),
    )?;
    transfer(hosts)?;
    for protocol in [ICMP, TCP] {
        // The capture is another thread's.
        eventually(PATIENCE, "all of that in the capture", || {
            let inside = hosts.from_here.inside(mark)?;
            let (inside, beside) = (of(&inside, protocol), of(&hosts.beside(mark), protocol));
            let (right, wrong) = if tunnelled {
                (inside, beside)
            } else {
                (beside, inside)
            };
            ensure!(
                right >= 4 && wrong == 0,
                "protocol {protocol}, in the tunnel {tunnelled}: {right}, the other way {wrong}"
            );
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

/// A source that only the tunnel holds is not seen elsewhere.
fn allocated_is_dropped(hosts: &Hosts) -> Result<()> {
    let mark = hosts.from_here.mark();
    ensure!(ping(&hosts.here, A, "-c 2 -W 1").is_err(), "answered");
    // What follows on the same wire tells that the captured packets are all there.
    ping(&hosts.here, UNDER_HERE, "-c 1 -W 20")?;
    let mut sent = hosts.sent_from(A, mark)?;
    sent.retain(|packet| packet.get(9) == Some(&ICMP));
    ensure!(sent.is_empty(), "{sent:02x?}");
    Ok(())
}

fn ping(netns: &Netns, source: Ipv4Addr, options: &str) -> Result<()> {
    netns
        .command(&format!("ping -n -I {source} {options} {PEER}"))
        .map(|_| ())
}

/// Packets to the peer.
fn of(packets: &[Vec<u8>], protocol: u8) -> usize {
    let ours = |packet: &&Vec<u8>| {
        packet.get(9) == Some(&protocol)
            && addresses(packet).is_some_and(|(_, to)| to == PEER)
            && !is_gre(packet)
    };
    packets.iter().filter(ours).count()
}

fn transfer(hosts: &Hosts) -> Result<()> {
    let listener = hosts.there.run(|| TcpListener::bind((PEER, DATA)))?;
    let sent: Vec<u8> = (0..BYTES).map(|byte| byte as u8).collect();
    let received = thread::scope(|scope| {
        let received = scope.spawn(|| -> Result<Vec<u8>> {
            let mut stream = listener.accept()?.0;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            Ok(received)
        });
        let stream = hosts.here.run(|| -> Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((UNDER_HERE, 0)).into())?;
            let to = SocketAddr::from(SocketAddrV4::new(PEER, DATA));
            socket.connect_timeout(&to.into(), PATIENCE)?;
            Ok(socket.into())
        });
        // If it cannot connect the listener waits for nobody.
        let sent = stream.and_then(|mut stream| Ok(stream.write_all(&sent)?));
        if sent.is_err() {
            let _ = hosts.there.run(|| TcpStream::connect((PEER, DATA)));
        }
        let received = received.join().ok().context("a panic");
        sent.and(received?)
    })?;
    ensure!(received == sent, "{} bytes of {BYTES}", received.len());
    Ok(())
}

/// An agent goes and another comes; nobody notices, and data goes on through the tunnel meanwhile.
fn takeover(signal: Signal) -> Result<()> {
    let hosts = Hosts::new()?;
    hosts.route_under()?;
    let agent_then = hosts.agent(PATIENT)?;
    let peers = hosts.peers(PATIENT)?;
    connect(&agent_then, &PAIRS)?;
    until_up(&agent_then, &hosts.here, &PAIRS)?;
    datagram(&hosts)?;

    let home = match signal {
        Signal::SIGKILL => agent_then.crash()?,
        other => agent_then.end(other)?,
    };
    heard(&peers, 3)?;
    datagram(&hosts)?;
    let mut agent = restarted(home, &hosts)?;
    heard(&peers, 3)?;
    datagram(&hosts)?;
    until_up(&agent, &hosts.here, &PAIRS)?;

    for entry in bed::entries(agent.home())? {
        ensure!(entry.session.ups == 1, "{entry:?}");
    }
    for snapshot in peers.iter().flat_map(UdpPeer::sessions) {
        let lost = snapshot
            .changes
            .iter()
            .any(|change| change.from == State::Up);
        ensure!(!lost, "{:?}", snapshot.changes);
    }
    nothing_failed(&mut agent)
}

fn restarted(home: Home, hosts: &Hosts) -> Result<Agent> {
    agent(home, &hosts.here, PATIENT)
}

/// Waits until each peer has heard of us so many times more.
fn heard(peers: &[UdpPeer], times: u64) -> Result<()> {
    let received = |peer: &UdpPeer| -> u64 {
        let sessions = peer.sessions();
        sessions.iter().map(|session| session.received).sum()
    };
    let before: Vec<_> = peers.iter().map(received).collect();
    eventually(PATIENCE, "packets from us", || {
        let now: Vec<_> = peers.iter().map(received).collect();
        let enough = now
            .iter()
            .zip(&before)
            .all(|(now, then)| *now >= then + times);
        ensure!(enough, "{before:?}, then {now:?}");
        anyhow::Ok(())
    })
}

/// One arrives, and was in the tunnel.
fn datagram(hosts: &Hosts) -> Result<()> {
    let mark = hosts.from_here.mark();
    let from = hosts.here.run(|| UdpSocket::bind((A, 0)))?;
    let to = hosts.there.run(|| UdpSocket::bind((PEER, DATA)))?;
    to.set_read_timeout(Some(PATIENCE))?;
    from.send_to(b"data", (PEER, DATA))?;
    let mut buffer = [0; 8];
    let (len, _) = to.recv_from(&mut buffer)?;
    ensure!(&buffer[..len] == b"data");
    let data = |packet: &Vec<u8>| parse_udp(packet).is_some_and(|udp| udp.dst.port() == DATA);
    eventually(PATIENCE, "the datagram in the tunnel", || {
        ensure!(hosts.from_here.inside(mark)?.iter().any(data), "not yet");
        anyhow::Ok(())
    })?;
    ensure!(hosts.beside(mark).is_empty(), "beside the tunnel");
    Ok(())
}

/// Waits until A may not be seen beside the tunnel.
fn until_confined(agent: &Agent) -> Result<()> {
    let maps = MapReader::from_pins(agent.home().pin_dir())?;
    eventually(PATIENCE, "a confined address", || {
        let found = maps.confined()?;
        let confined = |address: Ipv4Addr| found.iter().any(|key| key.addr == address.octets());
        ensure!(confined(A) && !confined(UNDER_HERE), "{found:?}");
        anyhow::Ok(())
    })
}

/// Waits until the way around is the underlay.
fn until_detour(agent: &Agent, netns: &Netns) -> Result<()> {
    let maps = MapReader::from_pins(agent.home().pin_dir())?;
    let under = netns.ifindex(UNDER)?;
    eventually(PATIENCE, "a way around", || {
        let sessions = maps.sessions()?;
        let entry = sessions.first().context("no session")?;
        ensure!(entry.detour == under, "{entry:?}");
        anyhow::Ok(())
    })
}
