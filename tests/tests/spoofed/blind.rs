//! Somebody who sends in the victim's name, 100 packets a second of every kind, and sees nothing of its
//! session: only the discriminators of another one.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::LIVENESS_PORT;
use dz_common::packet::{Packet, State, Version};
use dz_tests::agent::Agent;
use dz_tests::frame::Datagram;
use dz_tests::rng::Rng;
use dz_tests::wait::{join, monotonic_ns};

use crate::scene::{LOCAL, VICTIM, Wire};

const PAUSE: Duration = Duration::from_millis(10);

/// He sends until [`Blind::end`] or the drop.
pub(crate) struct Blind {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<u64>>>,
}

impl Blind {
    /// `seen`: discriminators of third parties, which he echoes, too.
    pub(crate) fn start(wire: &Arc<Wire>, seen: [u32; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (wire, stopped) = (Arc::clone(wire), Arc::clone(&stop));
        let seed = monotonic_ns();
        println!("seed of the blind sender: {seed}");
        let thread = thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                wire.inject(&packet(&Rng::new(seed, sent), sent, seen))?;
                sent += 1;
                thread::sleep(PAUSE);
            }
            Ok(sent)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// How many he has sent.
    pub(crate) fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("ended twice")?;
        Ok(join(thread).context("it panicked")??)
    }
}

impl Drop for Blind {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

/// States and echoes in turn, the rest at random.
fn packet(rng: &Rng, number: u64, seen: [u32; 2]) -> Vec<u8> {
    let state = State::ALL[number as usize % State::ALL.len()];
    let echo = match number / 4 % 4 {
        0 => 0,
        1 => rng.word(),
        2 => 0xdead_beef,
        _ => rng.pick(&seen),
    };
    let packet = Packet {
        state,
        detect_mult: rng.pick(&[1, 3, 255]),
        my_discr: rng.pick(&[0xdead_beef, rng.word() | 1, seen[0], seen[1]]),
        your_discr: echo,
        desired_min_tx_us: rng.pick(&[0, 50_000, 1_000_000, u32::MAX]),
        required_min_rx_us: rng.pick(&[0, 50_000, 1_000_000, u32::MAX]),
        passive: rng.chance(50),
        version: Version::new(rng.word().to_be_bytes()),
        reserved_set: false,
    };
    let [from, to] = [VICTIM, LOCAL].map(|address| SocketAddrV4::new(address, LIVENESS_PORT));
    Datagram::new(from, to, packet.encode()).build()
}

/// How often an exit was taken at the peers' address.
pub(crate) fn exits(agent: &Agent, name: &str) -> Result<u64> {
    let reply = agent.get("/v1/counters")?;
    let blocks = reply["blocks"].as_array().context("no blocks")?;
    let counts = blocks.iter().map(|block| &block["counters"][name]);
    Ok(counts.filter_map(serde_json::Value::as_u64).sum())
}

/// The counters say what was sent to a session that was Up.
pub(crate) fn counted(agent: &Agent) -> Result<()> {
    for name in [
        "drop_unproven_admin_down",
        "drop_zero_your_discriminator",
        "drop_wrong_discriminator",
        "rx_unproven_answered",
        "rx_unproven_paced",
    ] {
        let count = exits(agent, name)?;
        println!("{name}: {count}");
        ensure!(count > 0, "{name} is 0");
    }
    Ok(())
}
