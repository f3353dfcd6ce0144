//! Bulk data (TCP, `iperf3`) over two tunnels, one of which at a time is let run: what the two are
//! like is compared within the same second, whatever else the machine does.

use std::fs;
use std::mem;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dz_tests::netns::Netns;
use dz_tests::priority;
use dz_tests::process::Process;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

/// Longer than any bench.
const FOR_EVER_S: &str = "86400";
/// For what takes a moment, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Data that shows that a flow has begun, bytes.
const BEGUN: u64 = 1 << 20;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the host with the agent: the gate sees the data, ingress the acknowledgements.
    Out,
    /// To it.
    In,
}

impl Direction {
    pub(crate) const ALL: [Self; 2] = [Self::Out, Self::In];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// One connection. Its sender stands still, but while it is measured.
pub(crate) struct Flow {
    client: Process,
    server: Process,
    direction: Direction,
}

impl Flow {
    /// Connects from `here` to an address of the other host.
    ///
    /// # Errors
    /// `iperf3` cannot be run, or no data arrives.
    pub(crate) fn new(
        (here, there): (&Netns, &Netns),
        from: Ipv4Addr,
        to: Ipv4Addr,
        direction: Direction,
    ) -> anyhow::Result<Self> {
        let to = to.to_string();
        let mut server = Command::new("iperf3");
        server.args(["--server", "--one-off", "--bind", &to]);
        let server = Process::spawn(there, &mut server, format!("iperf3 at {to}"))?;
        before_others(&server);
        let client = eventually(PATIENCE, "data through iperf3", || {
            let mut client = Command::new("iperf3");
            client.args(["--interval", "0", "--time", FOR_EVER_S]);
            client.args(["--bind", &from.to_string(), "--client", &to]);
            if thread::available_parallelism().is_ok_and(|processors| processors.get() > 1) {
                // Where they run must not be part of what is compared.
                client.args(["--affinity", "0,1"]);
            }
            if direction == Direction::In {
                client.arg("--reverse");
            }
            let mut client = Process::spawn(here, &mut client, format!("iperf3 to {to}"))?;
            let begun = Instant::now();
            loop {
                let receiver = match direction {
                    Direction::Out => &server,
                    Direction::In => &client,
                };
                if received(receiver)? >= BEGUN {
                    return Ok(client);
                }
                // As it does where nobody listens yet.
                ensure!(client.ended()?.is_none(), "it ended: {}", client.log());
                ensure!(begun.elapsed() < PATIENCE, "no data: {}", client.log());
                thread::sleep(LOOK);
            }
        })?;
        before_others(&client);
        let flow = Self {
            client,
            server,
            direction,
        };
        flow.stop()?;
        Ok(flow)
    }

    /// Lets it run for a while; bit/s that arrived at the application, after a lead that does not count.
    /// 0 where TCP waits for a retransmission all the while: the receiver's backlog on this machine is
    /// short. `beside` is read at the begin and at the end, too: how much it grew by, per second.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn measure(
        &self,
        lead: Duration,
        time: Duration,
        beside: impl Fn() -> anyhow::Result<u64>,
    ) -> anyhow::Result<(f64, f64)> {
        let stopped = received(self.receiver())?;
        self.sender().signal(Signal::SIGCONT)?;
        // What was lost when it was made to stand still is not what is measured.
        eventually(PATIENCE, "data after a stop", || {
            thread::sleep(LOOK);
            ensure!(received(self.receiver())? > stopped, "none");
            anyhow::Ok(())
        })?;
        thread::sleep(lead);
        let counted = beside()?;
        let (begun, before) = (Instant::now(), received(self.receiver())?);
        thread::sleep(time);
        let after = received(self.receiver())?;
        let took = begun.elapsed().as_secs_f64();
        let counted = beside()? - counted;
        self.stop()?;
        Ok(((after - before) as f64 * 8.0 / took, counted as f64 / took))
    }

    /// Stops the sender, and waits until what it has given to its kernel is gone, too.
    fn stop(&self) -> anyhow::Result<()> {
        self.sender().freeze()?;
        let mut before = 0;
        eventually(PATIENCE, "an end of the data", || {
            thread::sleep(LOOK);
            let now = received(self.receiver())?;
            let earlier = mem::replace(&mut before, now);
            ensure!(now == earlier, "still arriving");
            anyhow::Ok(())
        })
    }

    const fn sender(&self) -> &Process {
        match self.direction {
            Direction::Out => &self.client,
            Direction::In => &self.server,
        }
    }

    const fn receiver(&self) -> &Process {
        match self.direction {
            Direction::Out => &self.server,
            Direction::In => &self.client,
        }
    }
}

/// Bytes that a process has read, of which nearly all are the data.
fn received(process: &Process) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/io", process.pid());
    let counts = fs::read_to_string(&path).context(path)?;
    let read = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.and_then(|read| read.parse().ok())
        .context("no rchar in /proc/PID/io")
}

/// What is compared should not depend on what else the machine does. Without the privilege it does
/// a little more.
fn before_others(process: &Process) {
    let _ = priority::raise(process.pid());
}
