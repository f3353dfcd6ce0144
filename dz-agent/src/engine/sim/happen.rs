//! Things happen to nodes, and at last everything is made well again.

use fastrand::Rng;
use nix::errno::Errno;

use super::daemon::Deed;
use super::machine::{Place, address_of};
use super::node::Undo;
use super::story::{Story, What};
use super::world::{AGREED_NS, MS, SECOND, World};
use crate::memory::Call;

/// For longer than this nothing is put off that was refused: the next full check sees to it.
const PUT_OFF_NS: u64 = 12 * SECOND;
/// Within so long a daemon notices that its routes are gone, and that they can come back.
const BACK_NS: u64 = SECOND;

impl World {
    /// Something happens to a node.
    pub(super) fn happen(&mut self, number: usize, what: What) {
        let now_ns = self.now_ns;
        let node = &mut self.nodes[number];
        node.next_ns = now_ns;
        if let What::Twitch(other, times, ms) = what {
            return self.twitch(number, other, times, ms * MS);
        }
        let node = &mut self.nodes[number];
        if node.client.is_some()
            && !matches!(
                what,
                What::Freeze(_) | What::Loss(..) | What::Disorder(..) | What::Cut(..)
            )
        {
            return self.happen_to_client(number, what);
        }
        match what {
            What::Connect(other) => node.connect(other),
            What::Disconnect(other) => node.disconnect(vec![other]),
            What::DisconnectAll => node.disconnect_all(),
            What::Freeze(ms) => node.frozen_until_ns = now_ns + ms * MS,
            What::Kill(effects, ms) | What::Purge(effects, ms) => {
                if let Some(agent) = node.agent.as_mut().filter(|agent| !agent.is_stopping()) {
                    agent.handle.die_after(agent.handle.effects() + effects);
                    node.kill_by_ns = Some(now_ns + SECOND);
                    node.restart_ms = ms;
                    node.purge = matches!(what, What::Purge(..));
                    if node.purge {
                        node.wants.clear();
                    }
                }
            }
            What::Withdraw(ms) => {
                if let Some(agent) = &mut node.agent {
                    agent.stop();
                    node.restart_ms = ms;
                    node.wants.clear();
                }
            }
            What::Loss(to, loss, ms) => {
                self.wire.way(number, to).loss = loss;
                self.undo_way(number, to, ms);
            }
            What::Disorder(to, jitter_ms, ms) => {
                let way = self.wire.way(number, to);
                (way.jitter_ms, way.doubled) = (jitter_ms, 20);
                self.undo_way(number, to, ms);
            }
            What::Cut(to, ms) => {
                self.wire.way(number, to).cut = true;
                self.undo_way(number, to, ms);
            }
            What::Move(place) => {
                node.machine.put_address(place);
                node.put_back_by(now_ns + self.rng.u64(..BACK_NS));
            }
            What::Down(ms) => {
                node.machine.set_tunnel_up(false);
                node.undo.push((now_ns + ms * MS, Undo::Up));
                node.put_back_by(now_ns + ms * MS + self.rng.u64(..BACK_NS));
            }
            What::Delete(ms) => {
                node.machine.delete_tunnel();
                node.undo.push((now_ns + ms * MS, Undo::Make));
                node.put_back_by(now_ns + ms * MS + self.rng.u64(..BACK_NS));
            }
            What::RouteDeleted(other) => node.machine.delete_route(address_of(other)),
            What::Foreign(other, ms) => {
                let dst = address_of(other);
                node.machine.foreign_route(dst, true);
                node.undo.push((now_ns + ms * MS, Undo::Unforeign(dst)));
                node.put_back_by(now_ns + ms * MS + self.rng.u64(..BACK_NS));
            }
            What::Refuse(percent, ms) => {
                let mut rng = Rng::with_seed(self.rng.u64(..));
                let refuse = move |call: &Call| -> Option<Errno> {
                    let errno = rng.choice(call.may_fail_with()).copied()?;
                    (rng.u8(..100) < percent).then_some(errno)
                };
                node.machine
                    .kernel
                    .borrow_mut()
                    .set_refuse(Some(Box::new(refuse)));
                node.refused_until_ns = now_ns + ms * MS;
                node.calm_ns = node.refused_until_ns + PUT_OFF_NS;
            }
            What::Cramped(room) => {
                if let Some(maps) = node.machine.kernel.borrow_mut().maps_mut() {
                    maps.set_event_room(room);
                }
            }
            What::Deaf => {
                if let Some(other) = self.rng.choice(&node.wants) {
                    node.machine.delete_route(address_of(*other));
                }
                node.machine.lose_notices();
            }
            What::Daemon(deed) => node.carry(deed, now_ns),
            What::Unheard(deed) => {
                node.carry(deed, now_ns);
                node.machine.lose_notices();
            }
            What::Flap(other, times, ms) => {
                for time in 0..u64::from(times) {
                    node.do_by(now_ns + 2 * time * ms * MS, Deed::Suspend(other));
                    node.do_by(now_ns + (2 * time + 1) * ms * MS, Deed::Back);
                }
            }
            What::Reload(ms) => {
                node.do_by(now_ns, Deed::SuspendAll);
                node.do_by(now_ns + ms * MS, Deed::Back);
            }
            What::Mac(ms) => {
                node.undo.push((now_ns + ms * MS, Undo::Announce));
                self.renew(number);
            }
            What::Missed(other) => {
                self.renew(other);
                self.announce(other);
                self.nodes[number].machine.lose_notices();
            }
            What::Lose(other) => node.machine.lose_neighbour(address_of(other), now_ns),
            What::Mute(ms) => node.mute_until_ns = now_ns + ms * MS,
            What::Twitch(..) => {}
        }
    }

    /// Somebody disconnects a node's peer and connects it again, so many times, with a pause in between.
    fn twitch(&mut self, number: usize, other: usize, times: u8, pause_ns: u64) {
        if other == number {
            return;
        }
        for time in 0..u64::from(times) {
            let at_ns = self.now_ns + 2 * time * pause_ns;
            let undo = &mut self.nodes[number].undo;
            undo.push((at_ns, Undo::Disconnect(other)));
            undo.push((at_ns + pause_ns, Undo::Connect(other)));
            for (node, peer) in [(number, other), (other, number)] {
                self.nodes[node].watch.expect_churn(peer, at_ns);
                self.nodes[node].watch.expect_churn(peer, at_ns + pause_ns);
            }
        }
    }

    /// Something happens to a node with the deployed client. What would happen to an agent or its
    /// machine happens to nobody there.
    pub(super) fn happen_to_client(&mut self, number: usize, what: What) {
        let now_ns = self.now_ns;
        let node = &mut self.nodes[number];
        let Some(client) = &mut node.client else {
            return;
        };
        let others = match what {
            What::Connect(other) => {
                client.connect(other, now_ns, &mut self.rng);
                node.wants.insert(other);
                return;
            }
            What::Kill(..) => return client.restart(now_ns, &mut self.rng),
            What::Disconnect(other) => vec![other],
            What::DisconnectAll => node.wants.iter().copied().collect(),
            _ => return,
        };
        let mut frames = Vec::new();
        for other in others {
            node.wants.remove(&other);
            frames.extend(client.disconnect(other).map(|frame| (other, frame)));
        }
        for (other, frame) in frames {
            self.send(number, other, frame);
        }
    }

    fn undo_way(&mut self, number: usize, to: usize, ms: u64) {
        let at_ns = self.now_ns + ms * MS;
        self.nodes[number].undo.push((at_ns, Undo::Way(to)));
    }

    /// Makes everything well again, and has everybody want what they want.
    pub(super) fn heal(&mut self, story: &Story) {
        self.healed = true;
        self.settled_ns = self.now_ns + AGREED_NS / 2;
        self.wire.heal();
        let now_ns = self.now_ns;
        for node in &mut self.nodes {
            node.next_ns = now_ns;
            node.frozen_until_ns = 0;
            node.refused_until_ns = 0;
            node.machine.kernel.borrow_mut().set_refuse(None);
            node.machine.make_tunnel();
            node.machine.set_tunnel_up(true);
            if node.machine.place == Place::Nowhere {
                node.machine.put_address(Place::Tunnel);
            }
            for other in 0..story.nodes {
                node.machine.foreign_route(address_of(other), false);
            }
            node.mute_until_ns = 0;
            // Searches go on.
            node.undo
                .retain(|(_, undo)| matches!(undo, Undo::Search(..)));
            node.machine.settle_daemon(now_ns);
            for other in 0..story.nodes {
                node.watch.churned(other, now_ns);
            }
        }
        for number in 0..story.nodes {
            self.announce(number);
        }
    }
}
