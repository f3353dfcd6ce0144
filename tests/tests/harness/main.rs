//! The harness itself: what the other tests stand on.

mod injected;
mod reports;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::bpftool;
use dz_tests::frame::{self, Datagram, UdpChecksum, parse_udp};
use dz_tests::harness::Requirement::{Root, Tool, Tun as TunDevice};
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::process::Process;
use dz_tests::raw::RawSocket;
use dz_tests::receive::Receive;
use dz_tests::tun::Tun;
use dz_tests::veth::{self, End};
use dz_tests::wait::{eventually, holds};
use dz_tests::wire::{Direction, TunWire};
use etherparse::EtherType;
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 44880;
const A: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 0);
const B: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 1);

fn a_namespace_and_its_name_go_together() -> Result<()> {
    let netns = Netns::new("short")?;
    let path = Path::new("/run/netns").join(netns.name());
    let listed = Command::new("ip").args(["netns", "list"]).output()?;
    ensure!(
        String::from_utf8_lossy(&listed.stdout).contains(netns.name()),
        "not listed"
    );
    // Only what is up: with the GRE module, each new namespace has `gre0` and the like, down.
    let inside = netns.ip("-o link show up")?;
    ensure!(
        inside.lines().count() == 1 && inside.contains("lo:"),
        "{inside}"
    );
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        netns.run(|| std::panic::resume_unwind(Box::new("on purpose")));
    }));
    ensure!(panicked.is_err_and(|panic| panic.downcast_ref() == Some(&"on purpose")));
    ensure!(!path.exists(), "the name outlives a panic");
    Ok(())
}

fn a_tun_is_a_wire_into_the_host() -> Result<()> {
    let netns = Netns::new("tun")?;
    let tun = Tun::new(&netns, "doublezero0", &["169.254.7.0/31"])?;
    let socket = netns.run(|| UdpSocket::bind((A, PORT)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (src, dst) = (SocketAddrV4::new(B, PORT), SocketAddrV4::new(A, PORT));
    // A bad checksum is not delivered, so that what arrives is the second one.
    for (payload, udp_checksum) in [("bad", UdpChecksum::Bad), ("good", UdpChecksum::Good)] {
        tun.send(
            &Datagram {
                udp_checksum,
                ..Datagram::new(src, dst, payload)
            }
            .build(),
        )?;
    }
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer)?;
    ensure!(
        &buffer[..len] == b"good" && from == src.into(),
        "{:?} from {from}",
        &buffer[..len]
    );
    socket.send_to(b"answer", src)?;
    let answer = tun.recv_until(PATIENCE, "the answer", parse_udp)?;
    ensure!(
        answer.payload == b"answer" && (answer.src, answer.dst) == (dst, src),
        "{answer:?}"
    );
    ensure!(
        answer.header_checksum_good && answer.udp_checksum == UdpChecksum::Good,
        "{answer:?}"
    );
    ensure!(tun.recv(Duration::ZERO)?.is_none(), "nothing else is sent");
    let shown = netns.ip("-o link show doublezero0")?;
    ensure!(
        shown.contains("mtu 1476") && shown.contains("POINTOPOINT"),
        "{shown}"
    );
    ensure!(
        netns
            .ip("-o address show doublezero0")?
            .contains("scope link")
    );
    Ok(())
}

fn a_wire_delays_cuts_and_remembers() -> Result<()> {
    const DELAY: Duration = Duration::from_millis(40);
    let (one, two) = (Netns::new("wire")?, Netns::new("wire")?);
    let a = Tun::new(&one, "doublezero0", &["169.254.7.0/31"])?;
    let b = Tun::new(&two, "doublezero0", &["169.254.7.1/31"])?;
    let wire = TunWire::connect(a, b, DELAY)?;
    let from = one.run(|| UdpSocket::bind((A, PORT)))?;
    let to = two.run(|| UdpSocket::bind((B, PORT)))?;
    to.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 64];

    let before = std::time::Instant::now();
    from.send_to(b"1", (B, PORT))?;
    to.recv(&mut buffer)?;
    ensure!(before.elapsed() >= DELAY, "early: {:?}", before.elapsed());

    wire.set_cut(Direction::AToB, true);
    from.send_to(b"2", (B, PORT))?;
    eventually(PATIENCE, "the packet in the cut", || {
        (wire.counts().a_to_b == 2).then_some(())
    })?;
    wire.set_cut_both(false);
    from.send_to(b"3", (B, PORT))?;
    to.recv(&mut buffer)?;
    ensure!(buffer[0] == b'3', "what met the cut arrived");
    let records = wire.records();
    let forwarded: Vec<bool> = records.iter().map(|record| record.forwarded).collect();
    ensure!(forwarded == [true, false, true], "{records:?}");
    ensure!(
        records
            .iter()
            .all(|record| record.direction == Direction::AToB)
    );
    ensure!(records.is_sorted_by_key(|record| record.at_ns));

    drop(wire);
    // A child that another test is starting may hold a copy of its descriptor for a moment.
    eventually(PATIENCE, "no device without its wire", || {
        one.ifindex("doublezero0").is_err().then_some(())
    })?;
    Ok(())
}

fn frames_in_and_out_of_a_veth() -> Result<()> {
    let (here, there) = (Netns::new("veth")?, Netns::new("veth")?);
    let near = End {
        mac: Some([2, 0, 0, 0, 0, 1]),
        ..End::new(&here, "v0", "10.0.0.1/24")
    };
    let far = End {
        address: None,
        ..End::new(&there, "v1", "")
    };
    veth::pair(&near, &far)?;
    let far_mac = veth::mac(&there, "v1")?;
    ensure!(veth::mac(&here, "v0")? == [2, 0, 0, 0, 0, 1]);
    here.ip(&format!(
        "neigh add 10.0.0.2 lladdr {} dev v0 nud permanent",
        veth::mac_text(far_mac)
    ))?;

    let raw = RawSocket::open(&there, "v1")?;
    let (peer, local) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
    let (src, dst) = (
        SocketAddrV4::new(peer, PORT),
        SocketAddrV4::new(local, PORT),
    );
    let socket = here.run(|| UdpSocket::bind(dst))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let packet = Datagram::new(src, dst, "hello").build();
    raw.send(&frame::ethernet(
        [2, 0, 0, 0, 0, 1],
        far_mac,
        EtherType::IPV4,
        &packet,
        true,
    ))?;
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer)?;
    ensure!(&buffer[..len] == b"hello" && from == src.into());

    socket.send_to(b"back", src)?;
    let answer = raw.recv_until(PATIENCE, "the answer", |frame| parse_udp(frame.get(14..)?))?;
    ensure!(answer.payload == b"back", "{answer:?}");
    // The checksum is complete on the wire, although the packet comes from a local stack.
    ensure!(answer.udp_checksum == UdpChecksum::Good, "{answer:?}");
    // What the socket has sent itself is not received by it, and nothing else is sent.
    ensure!(raw.recv(Duration::ZERO)?.is_none());
    Ok(())
}

/// What the kernel says of a sum is what the bytes show.
fn unfinished_sums_are_told() -> Result<()> {
    let (here, there) = (Netns::new("sums")?, Netns::new("sums")?);
    veth::pair(
        &End::new(&here, "v0", "10.0.0.1/24"),
        &End::new(&there, "v1", "10.0.0.2/24"),
    )?;
    let raw = RawSocket::open(&there, "v1")?;
    raw.tell_sums()?;
    let socket = here.run(|| UdpSocket::bind((Ipv4Addr::new(10, 0, 0, 1), PORT)))?;
    for (offload, sum) in [("off", UdpChecksum::Good), ("on", UdpChecksum::Bad)] {
        here.command(&format!("ethtool -K v0 tx {offload}"))?;
        socket.send_to(b"sum", (Ipv4Addr::new(10, 0, 0, 2), PORT))?;
        let (unfinished, datagram) = eventually(PATIENCE, "the datagram", || {
            let (unfinished, frame) = raw.try_recv_summed().ok()??;
            Some((unfinished, parse_udp(frame.get(14..)?)?))
        })?;
        ensure!(
            unfinished == (sum == UdpChecksum::Bad) && datagram.udp_checksum == sum,
            "tx {offload}: {unfinished}, {datagram:?}"
        );
    }
    Ok(())
}

fn xdp_pass_lets_everything_through() -> Result<()> {
    let (here, there) = (Netns::new("pass")?, Netns::new("pass")?);
    veth::pair(
        &End::new(&here, "v0", "10.0.0.1/24"),
        &End::new(&there, "v1", "10.0.0.2/24"),
    )?;
    let pass = Bare::attach(&there, "v1", Program::EmptyXdp)?;
    let shown = there.ip("link show v1")?;
    ensure!(
        shown.contains(" xdp "),
        "not attached in native mode: {shown}"
    );
    here.command("ping -c 1 -W 5 10.0.0.2")?;
    drop(pass);
    // The kernel detaches when it frees the link, a moment later.
    eventually(PATIENCE, "no XDP", || {
        let shown = there.ip("link show v1")?;
        ensure!(!shown.contains("xdp"), "{shown}");
        anyhow::Ok(())
    })
}

fn a_child_is_inside_and_its_words_are_kept() -> Result<()> {
    let netns = Netns::new("child")?;
    netns.ip("link add v0 type veth peer name v1")?;
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ip -o link show v0; echo complaint >&2; exec sleep 600",
    ]);
    let mut child = Process::spawn(&netns, &mut command, "child".to_owned())?;
    eventually(PATIENCE, "both streams in the log", || {
        let log = child.log();
        ensure!(log.contains("v0@v1") && log.contains("complaint"), "{log}");
        anyhow::Ok(())
    })?;
    child.freeze()?;
    holds(Duration::from_millis(50), "stopped", || {
        child.is_stopped().then_some(())
    })?;
    ensure!(child.ended()?.is_none());
    let pid = child.pid();
    drop(child);
    ensure!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "it outlives the value"
    );
    Ok(())
}

/// Two agents over a wire, by nothing but their command lines.
fn two_agents_find_each_other() -> Result<()> {
    let (one, two) = (Netns::new("agent")?, Netns::new("agent")?);
    let a = Tun::new(&one, "doublezero0", &["169.254.7.0/31"])?;
    let b = Tun::new(&two, "doublezero0", &["169.254.7.1/31"])?;
    let wire = TunWire::connect(a, b, Duration::ZERO)?;
    let run = ["--interface", "doublezero0"];
    let (agent_a, agent_b) = (Agent::start(&one, &run)?, Agent::start(&two, &run)?);
    agent_a.cli(&["connect", "169.254.7.1", "--local", "169.254.7.0"])?;
    agent_b.cli(&["connect", "169.254.7.0", "--local", "169.254.7.1"])?;
    for (netns, peer) in [(&one, B), (&two, A)] {
        eventually(PATIENCE, "the peer's route", || {
            let shown = netns.ip(&format!("route show proto 144 to exact {peer}"))?;
            ensure!(
                shown.contains("dev doublezero0"),
                "{shown:?} {}",
                agent_a.cli(&["sessions"])?
            );
            anyhow::Ok(())
        })?;
    }
    let counts = wire.counts();
    ensure!(counts.a_to_b > 0 && counts.b_to_a > 0, "{counts:?}");
    let shown = agent_a.json(&["sessions", "--json"])?;
    ensure!(shown.to_string().contains("169.254.7.1"), "{shown}");
    let dumped = bpftool::dump(&agent_a.home().pin_dir().join("dz_sessions"))?;
    ensure!(
        dumped.len() == 1 && dumped[0].get("value").is_some(),
        "{dumped:?}"
    );

    let home = agent_a.end(Signal::SIGTERM)?;
    let left = one.ip("route show proto 144")?;
    ensure!(left.is_empty(), "left behind: {left}");
    let agent_a = Agent::start_in(home, &one, &run)?;
    agent_a.cli(&["sessions"])?;
    Ok(())
}

fn main() -> std::process::ExitCode {
    if reports::is_inner() {
        return dz_tests::harness::run(reports::inner());
    }
    let veth = [Root, Tool("ethtool")];
    let mut tests = vec![
        Test::new("netns::name", &[Root], a_namespace_and_its_name_go_together),
        Test::new(
            "tun::both_ways",
            &[Root, TunDevice],
            a_tun_is_a_wire_into_the_host,
        ),
        Test::new(
            "wire::delay_and_cut",
            &[Root, TunDevice],
            a_wire_delays_cuts_and_remembers,
        ),
        Test::new("veth::frames", &veth, frames_in_and_out_of_a_veth),
        Test::new("veth::unfinished_sums", &veth, unfinished_sums_are_told),
        Test::new(
            "xdp::pass",
            &[Root, Tool("ethtool"), Tool("ping")],
            xdp_pass_lets_everything_through,
        ),
        Test::new(
            "agent::process",
            &[Root],
            a_child_is_inside_and_its_words_are_kept,
        ),
        Test::new(
            "agent::two",
            &[Root, TunDevice, Tool("bpftool")],
            two_agents_find_each_other,
        ),
    ];
    tests.extend(injected::tests());
    tests.extend(reports::tests());
    dz_tests::harness::run(tests)
}
