//! What changes without the agent being asked: addresses, links, far ends and routes.

use std::net::Ipv4Addr;

use anyhow::Result;
use dz_tests::bed::INTERFACE;
use dz_tests::rng::Rng;

use crate::host::{Host, pause};
use crate::world::{LOCALS, World};

impl Host {
    /// Something changes that the agent is not asked about.
    pub(crate) fn change(&mut self, rng: &Rng) -> Result<()> {
        let local = rng.pick(&LOCALS);
        match rng.below(12) {
            0 => {
                let hold = !self.world.held().contains(&local);
                self.log(format!("address {local}: {hold}"));
                self.world.hold(local, hold)?;
                let of = self
                    .model
                    .peers
                    .iter()
                    .filter(|(_, wanted)| wanted.local == local);
                self.touched.extend(of.map(|(peer, _)| *peer));
            }
            1 => {
                let up = rng.chance(60);
                if self.world.set_up(up)? {
                    self.log(format!("link up: {up}"));
                    self.touched.extend(World::addresses());
                }
            }
            2 => {
                self.log("interface deleted");
                self.world.delete_interface();
                self.touched.extend(World::addresses());
                if rng.chance(70) {
                    pause(rng, 1 << rng.below(16));
                    self.log("interface created anew");
                    self.world.create_interface()?;
                }
            }
            3 if !self.world.has_interface() => {
                self.log("interface created");
                self.world.create_interface()?;
                self.touched.extend(World::addresses());
            }
            3..6 => {
                let Some(peer) = self.world.fars.keys().nth(rng.index(self.world.fars.len()))
                else {
                    return Ok(());
                };
                let (peer, refuse) = (*peer, rng.chance(60));
                self.log(format!("far end of {peer} from {local} refuses: {refuse}"));
                self.world.refuse(peer, local, refuse);
                self.touched.insert(peer);
            }
            6..8 => self.delete_our_routes(rng)?,
            8..10 => self.stale_route(rng)?,
            _ => {
                let peers: Vec<_> = World::addresses().collect();
                let peer = peers[rng.index(peers.len())];
                let done = self.world.foreign(peer, rng.next())?;
                self.log(format!("somebody else's {done}"));
            }
        }
        Ok(())
    }

    fn delete_our_routes(&mut self, rng: &Rng) -> Result<()> {
        for (dst, route) in self.world.our_routes()? {
            if rng.chance(30) {
                self.log(format!("route to {dst} deleted by hand"));
                let line = format!("route delete {dst} dev {} proto 144", route.dev);
                // The agent may be quicker: gone already is as good.
                let _ = self.world.here.ip(&line);
            }
        }
        Ok(())
    }

    /// A route under our number that no peer wants, as an agent that is dead may have left it.
    fn stale_route(&mut self, rng: &Rng) -> Result<()> {
        let dst = Ipv4Addr::new(10, 96, 0, rng.byte());
        self.log(format!("stale route to {dst}"));
        // Without an interface, or with one that is down, there is none to be added.
        let line = format!("route replace {dst} dev {INTERFACE} proto 144");
        let _ = self.world.here.ip(&line);
        Ok(())
    }
}
