//! What happens to an agent in a round.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use dz_tests::answerer::peer;
use dz_tests::bed::{HERE, INTERFACE};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::scene::{COMING, LASTING, Scene, address};

impl Scene {
    /// Does one thing after the other until then.
    pub(crate) fn churn(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            let name = match self.rng.below(20) {
                0..6 => self.connect()?,
                6..11 => self.disconnect()?,
                11 => self.flap()?,
                12..14 => self.address()?,
                14 => self.fault()?,
                15 => self.steal()?,
                16 => {
                    self.running()?.process().signal(Signal::SIGHUP)?;
                    "reloads"
                }
                17 => {
                    self.ask("GET", "/v1/sessions", "")?;
                    "listings"
                }
                _ => {
                    self.ask("GET", "/metrics", "")?;
                    "scrapes"
                }
            };
            *self.done.entry(name).or_default() += 1;
            sleep(Duration::from_millis(self.rng.below(120)));
        }
        Ok(())
    }

    fn some(&self) -> Vec<Ipv4Addr> {
        let first = self.rng.index(COMING);
        let count = 1 + self.rng.index(30);
        let some = (first..first + count).map(|index| peer(LASTING + index % COMING));
        some.collect()
    }

    fn connect(&mut self) -> Result<&'static str> {
        let peers = self
            .some()
            .into_iter()
            .map(|peer| json!({ "peer": peer, "local": HERE }));
        let body = json!(peers.collect::<Vec<_>>()).to_string();
        self.ask("POST", "/v1/peers", &body)?;
        Ok("connects")
    }

    fn disconnect(&mut self) -> Result<&'static str> {
        let body = json!({ "peers": self.some() }).to_string();
        self.ask("DELETE", "/v1/peers", &body)?;
        Ok("disconnects")
    }

    /// Every peer is silent for longer than the detection time, or for less.
    fn flap(&mut self) -> Result<&'static str> {
        self.far.set_cut(true);
        sleep(Duration::from_millis(300 + self.rng.below(1_500)));
        self.far.set_cut(false);
        Ok("cuts")
    }

    /// A new address comes and goes.
    fn address(&mut self) -> Result<&'static str> {
        self.addresses += 1;
        let address = address(self.addresses);
        self.here
            .ip(&format!("address add {address}/32 dev {INTERFACE}"))?;
        let body = json!({ "peer": peer(LASTING + COMING), "local": address }).to_string();
        self.ask("POST", "/v1/peers", &body)?;
        sleep(Duration::from_millis(self.rng.below(200)));
        self.here
            .ip(&format!("address delete {address}/32 dev {INTERFACE}"))?;
        let body = json!({ "peers": [peer(LASTING + COMING)] }).to_string();
        self.ask("DELETE", "/v1/peers", &body)?;
        Ok("addresses")
    }

    /// The kernel refuses routes for a moment, or the deletion of sessions.
    fn fault(&mut self) -> Result<&'static str> {
        let faults = self.running()?.home().faults()?;
        match self.rng.below(4) {
            0 => faults.refuse_add(Errno::ENOBUFS)?,
            1 => faults.refuse_delete(Errno::ENOMEM)?,
            2 => faults.refuse_session_delete(Errno::ENOMEM)?,
            _ => faults.interrupt_dumps(3)?,
        }
        sleep(Duration::from_millis(self.rng.below(500)));
        faults.clear()?;
        Ok("faults")
    }

    /// Somebody deletes a route of ours.
    fn steal(&mut self) -> Result<&'static str> {
        let to = peer(self.rng.index(LASTING));
        // Not there after a cut.
        let _ = self
            .here
            .ip(&format!("route delete {to} dev {INTERFACE} proto 144"));
        Ok("routes deleted")
    }
}
