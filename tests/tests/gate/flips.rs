//! Connections survive a peer that goes and comes back: what they send takes the other interface
//! meanwhile.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use dz_common::packet::State;
use dz_tests::bed::{PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;

use crate::scene::{Hosts, Kind, NEEDS, UNDER, UNDER_HERE, connect, maps, until, until_detour};

const THIRD: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ECHO: u16 = 9_002;
const FLIPS: usize = 2;
/// Packets seen by the other interface before the peer comes back.
const SEEN: usize = 40;

pub(crate) fn tests() -> Vec<Test> {
    let test = |kind: Kind| {
        let name = format!("flips::connections_survive_{}", kind.name());
        Test::new(name, &NEEDS, move || survive(kind))
    };
    Kind::ALL.map(test).into()
}

/// A host behind ours, whose packets ours forwards.
fn third(hosts: &Hosts) -> Result<Netns> {
    let third = Netns::new("gate-third")?;
    veth::pair(
        &End::new(&hosts.here, "third0", "10.9.0.1/24"),
        &End::new(&third, "third0", "10.9.0.2/24"),
    )?;
    third.ip("route add default via 10.9.0.1")?;
    hosts.here.command("sysctl -qw net.ipv4.ip_forward=1")?;
    // Answers come back by the underlay.
    hosts.there.ip(&format!(
        "route add 10.9.0.0/24 via {UNDER_HERE} dev {UNDER}"
    ))?;
    Ok(third)
}

fn survive(kind: Kind) -> Result<()> {
    let hosts = Hosts::new(kind)?;
    hosts.route_under()?;
    hosts.route_into_tunnel()?;
    let third = third(&hosts)?;
    let agent = hosts.agent(&[])?;
    connect(&agent, &[])?;
    let maps = maps(agent.home())?;
    until_detour(&hosts, &maps, hosts.here.ifindex(UNDER)?)?;
    let peer = hosts.peer()?;
    until(&maps, State::Up)?;

    let pings = [ping(&hosts.here, UNDER_HERE)?, ping(&third, THIRD)?];
    let (stop, asked) = (AtomicBool::new(false), AtomicBool::new(false));
    let listener = hosts.there.run(|| TcpListener::bind((THERE, 9_001)))?;
    let stream = bulk_stream(&hosts, &listener)?;
    let echo = hosts.there.run(|| UdpSocket::bind((THERE, ECHO)))?;
    let asking = hosts.socket(UNDER_HERE)?;
    let (received, sent, answered) = thread::scope(|scope| {
        let echo = scope.spawn(|| answer(&echo, &asked));
        let asking = scope.spawn(|| ask(&asking, &stop));
        let server = scope.spawn(|| receive(stream.1));
        let client = scope.spawn(|| send(stream.0, &stop));
        let flips = (|| {
            for flip in 0..FLIPS {
                peer.silence();
                until(&maps, State::Down)?;
                keeps_out(&hosts).with_context(|| format!("flip {flip}"))?;
                peer.resume();
                until(&maps, State::Up)?;
                goes_in(&hosts).with_context(|| format!("flip {flip}"))?;
            }
            anyhow::Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let sent = client.join().map_err(|_| anyhow!("the client"))?;
        let received = server.join().map_err(|_| anyhow!("the server"))?;
        let answered = asking.join().map_err(|_| anyhow!("who asks over UDP"))?;
        asked.store(true, Ordering::Relaxed);
        echo.join().map_err(|_| anyhow!("who answers over UDP"))??;
        flips?;
        anyhow::Ok((received?, sent?, answered?))
    })?;
    ensure!(received == sent, "{received} bytes of {sent}");
    for ping in pings {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(ping.id())?),
            nix::sys::signal::Signal::SIGINT,
        )?;
        let output = ping.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lost = text.lines().find(|line| line.contains("packet loss"));
        let lost = lost.context("ping says nothing")?;
        println!("{lost}");
        let count = |what: &str| {
            let counts = lost.split(", ");
            let count = counts.filter_map(|part| part.strip_suffix(what)).next();
            count.and_then(|count| count.trim().parse::<u64>().ok())
        };
        let asked = count(" packets transmitted").context("no count")?;
        let answered = count(" received").context("no count")?;
        // The last one may have been on its way when ping was told to end.
        ensure!(asked - answered <= 1 && !lost.contains("errors"), "{text}");
    }
    println!("{answered} datagrams over UDP, each answered");
    println!("{sent} bytes over TCP, across {FLIPS} times Down");
    Ok(())
}

/// While the session is Down: seen on the other interface, and not in the tunnel.
fn keeps_out(hosts: &Hosts) -> Result<()> {
    more(SEEN / 2, || hosts.diverted(ICMP))?;
    more(SEEN / 2, || hosts.diverted(TCP))?;
    let before = [hosts.tunnelled(ICMP)?, hosts.tunnelled(TCP)?];
    more(SEEN, || hosts.diverted(ICMP))?;
    more(SEEN, || hosts.diverted(TCP))?;
    more(SEEN, || hosts.diverted(UDP))?;
    // What we forward, too.
    more(SEEN / 2, || hosts.diverted_from(THIRD))?;
    let after = [hosts.tunnelled(ICMP)?, hosts.tunnelled(TCP)?];
    ensure!(before == after, "into the tunnel: {before:?}, {after:?}");
    Ok(())
}

/// While it is Up: through the tunnel again.
fn goes_in(hosts: &Hosts) -> Result<()> {
    more(SEEN, || hosts.tunnelled(ICMP))?;
    more(SEEN, || hosts.tunnelled(TCP))
}

fn more(by: usize, count: impl Fn() -> Result<usize>) -> Result<()> {
    let before = count()?;
    eventually(PATIENCE, "packets that go on", || {
        let now = count()?;
        ensure!(now >= before + by, "{before}, then {now}");
        anyhow::Ok(())
    })
}

fn ping(netns: &Netns, source: Ipv4Addr) -> Result<std::process::Child> {
    let mut command = Command::new("ping");
    command.args(["-n", "-q", "-i", "0.02", "-I", &source.to_string()]);
    command.arg(THERE.to_string()).stdout(Stdio::piped());
    Ok(netns.spawn(&mut command)?)
}

fn bulk_stream(hosts: &Hosts, listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = hosts.here.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        let address = |ip, port| std::net::SocketAddr::from((ip, port));
        socket.bind(&address(UNDER_HERE, 0).into())?;
        socket.connect(&address(THERE, 9_001).into())?;
        std::io::Result::Ok(TcpStream::from(socket))
    })?;
    Ok((client, listener.accept()?.0))
}

/// A pattern that tells every byte's place, so that none is lost, twice or elsewhere.
fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Sends at about 3 MB/s: enough to be bulk, and the wire remembers it all.
fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64> {
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        let chunk: Vec<u8> = (at..at + 16_384).map(pattern).collect();
        stream.write_all(&chunk).context("writing")?;
        at += 16_384;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(at)
}

fn receive(mut stream: TcpStream) -> Result<u64> {
    let mut at = 0_u64;
    let mut buffer = vec![0; 65_536];
    loop {
        let len = stream.read(&mut buffer).context("reading")?;
        if len == 0 {
            return Ok(at);
        }
        for byte in &buffer[..len] {
            ensure!(*byte == pattern(at), "byte {at} is wrong");
            at += 1;
        }
    }
}

/// Sends one datagram after the other, the next one when the answer is there; returns how many.
fn ask(socket: &UdpSocket, stop: &AtomicBool) -> Result<u64> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut asked = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        asked += 1;
        socket.send_to(&asked.to_be_bytes(), (THERE, ECHO))?;
        let mut answer = [0; 8];
        socket
            .recv(&mut answer)
            .with_context(|| format!("no answer to datagram {asked}"))?;
        ensure!(u64::from_be_bytes(answer) == asked, "{answer:?} to {asked}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(asked)
}

/// Sends back what comes, until everything has been asked.
fn answer(socket: &UdpSocket, asked: &AtomicBool) -> Result<()> {
    // To look at the flag now and then.
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut datagram = [0; 8];
    while !asked.load(Ordering::Relaxed) {
        match socket.recv_from(&mut datagram) {
            Ok((_, from)) => socket.send_to(&datagram, from).map(|_| ())?,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("the datagrams' server"),
        }
    }
    Ok(())
}
