//! Telling a story, step by step.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::agent::{Agent, Life};
use super::agreement::{self, Ends};
use super::beside;
use super::check::{self, Condition};
use super::finding::{Finding, NOW, Report};
use super::machine::node_of;
use super::node::{Node, Undo};
use super::story::{Story, What};
use super::world::{AGREED_NS, BEGUN_NS, MS, SECOND, World};

/// How often a node is looked at that does nothing, ns.
const LOOK_NS: u64 = 100 * MS;
/// The longest time that a session is held, and some more, ns.
const HELD_NS: u64 = 70 * SECOND;
/// How long after its last change a route may still make a peer of somebody.
const CHURNED_NS: u64 = 3 * SECOND;
/// By how much `--backoff-cap` is lower at every other start.
const BACKOFF_LESS: Duration = Duration::from_secs(1);
/// Where the source and the destination stand in an IPv4 header.
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

/// Returns the address that stands somewhere in a packet.
fn address_at(frame: &[u8], at: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
    Some(bytes.into())
}

impl World {
    pub(super) fn run(mut self, story: &Story) -> Result<Report, Finding> {
        let mut events = story.events.iter().copied().peekable();
        let healed_ns = BEGUN_NS + story.healed_ns;
        let mut end_ns = healed_ns + AGREED_NS;
        let latest_ns = end_ns + HELD_NS;
        let warm_ns = BEGUN_NS + 8 * SECOND;
        loop {
            let next = [
                events.peek().map(|event| BEGUN_NS + event.at_ns),
                self.wire.next_ns(),
                self.nodes.iter().map(|node| node.next_ns).min(),
                (!self.healed).then_some(healed_ns),
            ];
            let next_ns = next.into_iter().flatten().min().unwrap_or(end_ns);
            if next_ns >= end_ns {
                // Who went down too often is held, but not for ever.
                if end_ns == latest_ns || !self.nodes.iter().any(Node::has_held) {
                    break;
                }
                end_ns = latest_ns;
            }
            self.now_ns = self.now_ns.max(next_ns);
            while let Some(event) = events.next_if(|event| BEGUN_NS + event.at_ns <= self.now_ns) {
                if !self.healed {
                    self.happen(event.node, event.what);
                }
            }
            if !self.healed && self.now_ns >= healed_ns {
                self.heal(story);
            }
            while let Some(packet) = self.wire.take(self.now_ns) {
                self.report.packets += 1;
                let node = &mut self.nodes[packet.to];
                let slow = self.rng.u8(..) < 30;
                match &mut node.client {
                    Some(client) => client.receive(&packet.frame, story.nodes, self.now_ns),
                    None if node.machine.beside.is_some() => {
                        let frame = beside::frame(packet.macs, &packet.frame);
                        node.machine.receive(&frame, self.now_ns, slow);
                    }
                    None => node.machine.receive(&packet.frame, self.now_ns, slow),
                }
                node.next_ns = self.now_ns;
            }
            for number in 0..self.nodes.len() {
                if self.nodes[number].next_ns <= self.now_ns {
                    self.step(number)?;
                    if story.gentle {
                        let node = &mut self.nodes[number];
                        let warm = warm_ns..healed_ns;
                        let kept = node.watch.kept(&node.machine, &warm, self.now_ns);
                        kept.map_err(|what| self.finding(number, what))?;
                    }
                }
            }
        }
        let machines: Vec<_> = self
            .nodes
            .drain(..)
            .map(|node| {
                let wanted = node.wanted();
                (Ends::of(node.machine, node.client), wanted)
            })
            .collect();
        let (ends, wants): (Vec<_>, Vec<_>) = machines.into_iter().unzip();
        agreement::look(&ends, &wants).map_err(|(node, what)| Finding {
            at_ns: end_ns - BEGUN_NS,
            node,
            what: format!("no agreement {what}"),
        })?;
        Ok(self.report)
    }

    /// A node has its turn.
    fn step(&mut self, number: usize) -> Result<(), Finding> {
        self.report.steps += 1;
        let now_ns = self.now_ns;
        NOW.set((now_ns - BEGUN_NS, number));
        if self.nodes[number].client.is_some() {
            self.step_client(number);
            return Ok(());
        }
        let mut node = &mut self.nodes[number];
        {
            let mut kernel = node.machine.kernel.borrow_mut();
            kernel.set_now_ns(now_ns);
            kernel.run_timers();
        }
        let due: Vec<_> = node
            .undo
            .extract_if(.., |(at_ns, _)| *at_ns <= now_ns)
            .collect();
        for (_, undo) in due {
            match undo {
                Undo::Up => node.machine.set_tunnel_up(true),
                Undo::Make => node.machine.make_tunnel(),
                Undo::Unforeign(dst) => node.machine.foreign_route(dst, false),
                Undo::Daemon(deed) => node.carry(deed, now_ns),
                Undo::Way(to) => *self.wire.way(number, to) = Default::default(),
                Undo::Search(ifindex, address, times) => {
                    self.searched(number, ifindex, address, times);
                }
                Undo::Announce => self.announce(number),
                Undo::Connect(other) => node.connect(other),
                Undo::Disconnect(other) => node.disconnect(vec![other]),
            }
            node = &mut self.nodes[number];
        }
        if node.refused_until_ns != 0 && node.refused_until_ns <= now_ns {
            node.refused_until_ns = 0;
            node.machine.kernel.borrow_mut().set_refuse(None);
        }
        if node.start_at_ns.is_some_and(|at_ns| at_ns <= now_ns) {
            node.start_at_ns = None;
            if std::mem::take(&mut node.purge) {
                node.machine.purge();
            }
            let mut options = self.options[usize::from(node.machine.follows)].clone();
            // Every other start has another setting, which nobody may notice.
            if now_ns / MS % 2 == 1 {
                options.backoff_cap -= BACKOFF_LESS;
            }
            node.agent = Some(Agent::start(&node.machine, options));
            node.started_ns = now_ns;
        }
        if self.healed && now_ns < self.settled_ns {
            node.operate(self.wire.nodes());
        }
        if let Some(agent) = &node.agent
            && node.kill_by_ns.take_if(|by_ns| *by_ns <= now_ns).is_some()
        {
            agent.handle.die_after(0);
        }
        // Answers go where packets have come from, whatever has become of that since.
        let answering = node.machine.kernel.borrow().running().next().is_some();
        self.send_frames(number, false)?;
        let node = &mut self.nodes[number];
        let mut next_ns = now_ns + SECOND;
        let thawed = node.frozen_until_ns <= now_ns;
        if let Some(agent) = node.agent.as_mut().filter(|_| thawed) {
            let life = agent.run(&node.machine, &mut self.rng);
            let calm = node.refused_until_ns == 0 && node.calm_ns <= now_ns;
            let ended = check::end(life, &node.machine, calm);
            match life {
                Life::Until(at_ns) => next_ns = at_ns.max(now_ns + 1),
                Life::Endless => {
                    return Err(self.finding(number, "turns without an end".to_owned()));
                }
                Life::Killed | Life::Failed | Life::Withdrawn | Life::Left => {
                    node.agent = None;
                    node.kill_by_ns = None;
                    node.machine.net.borrow_mut().unsubscribe();
                    // Who cannot start is started again soon, as systemd does.
                    let ms = if life == Life::Failed {
                        100
                    } else {
                        node.restart_ms.max(1)
                    };
                    node.start_at_ns = Some(now_ns + ms * MS);
                    node.asked.clear();
                    if matches!(life, Life::Withdrawn | Life::Left) {
                        // What requests have connected is gone with it.
                        node.wants.clear();
                    }
                }
            }
            if let Err(what) = ended {
                return Err(self.finding(number, what));
            }
        }
        if !thawed {
            next_ns = node.frozen_until_ns;
        }
        // Those that the agent has overtaken.
        node.machine.kernel.borrow_mut().wait_for_programs();
        let answered = node
            .asked
            .extract_if(.., |(_, reply)| !reply.is_empty() || reply.is_terminated());
        for (others, mut reply) in answered.collect::<Vec<_>>() {
            if let Ok(Ok(_)) = reply.try_recv() {
                let (watch, machine) = (&mut node.watch, &node.machine);
                // Before the answer to a later disconnect, a connect that came between the two has its time.
                let asked_again =
                    |other: &usize| node.asked.iter().any(|(later, _)| later.contains(other));
                let unwanted = others.into_iter().filter(|other| {
                    let since_ns = now_ns.saturating_sub(CHURNED_NS);
                    !node.wants.contains(other)
                        && !asked_again(other)
                        && !machine.daemon.wants(*other, since_ns)
                });
                watch.gone.extend(unwanted);
            }
        }
        let well = node.is_well(now_ns);
        let settled = node.is_settled(now_ns) && !answering;
        self.send_frames(number, settled)?;
        self.search(number);
        let node = &mut self.nodes[number];
        let timer_ns = node.machine.kernel.borrow().next_timer_ns();
        let undo_ns = node.undo.iter().map(|(at_ns, _)| *at_ns).min();
        let refused_ns = (node.refused_until_ns != 0).then_some(node.refused_until_ns);
        let more = [
            timer_ns,
            undo_ns,
            refused_ns,
            node.start_at_ns,
            node.kill_by_ns,
        ];
        let more_ns = more.into_iter().flatten().min().unwrap_or(next_ns);
        node.next_ns = next_ns.min(more_ns).max(now_ns + 1);
        // A step in which the agent has done nothing breaks no promise but those that have their time.
        let agent = node.agent.as_ref();
        let effects = agent.map(|agent| agent.handle.effects());
        if effects == node.seen.0 && now_ns < node.seen.1 + LOOK_NS {
            return Ok(());
        }
        node.seen = (effects, now_ns);
        let looked = node.watch.look(&node.machine, Condition { well }, now_ns);
        looked.map_err(|what| self.finding(number, what))
    }

    /// Sends the frames that have left a node. `settled`: they are of its agent, which has had time to notice where
    /// they are to go.
    fn send_frames(&mut self, number: usize, settled: bool) -> Result<(), Finding> {
        let now_ns = self.now_ns;
        let frames = self.nodes[number].machine.kernel.borrow_mut().take_frames();
        for (_, mut frame) in frames {
            let node = &mut self.nodes[number];
            let beside = node.machine.beside.is_some();
            let header = if beside { beside::HEADER_LEN } else { 0 };
            let to = address_at(&frame, header + DESTINATION);
            let to = to.and_then(|to| node_of(to, self.wire.nodes()));
            let Some(to) = to else { continue };
            let from = address_at(&frame, header + SOURCE);
            let away = from.is_some_and(|from| !node.machine.holds(from));
            let mut sent = node.watch.sent(to, away, now_ns);
            if let Some(macs) = beside::macs(&frame).filter(|_| beside) {
                if settled {
                    let looked = node.machine.look_at_macs(macs, to, now_ns);
                    sent = sent.and(looked);
                }
                if let Some(macs) = self.segment.carried(macs, to) {
                    frame.drain(..header);
                    self.wire
                        .send((number, to), macs, frame, now_ns, &mut self.rng);
                }
            } else {
                self.send(number, to, frame);
            }
            sent.map_err(|what| self.finding(number, what))?;
        }
        Ok(())
    }

    fn step_client(&mut self, number: usize) {
        let now_ns = self.now_ns;
        let node = &mut self.nodes[number];
        let mut again = Vec::new();
        for (at_ns, undo) in std::mem::take(&mut node.undo) {
            match undo {
                Undo::Way(to) if at_ns <= now_ns => *self.wire.way(number, to) = Default::default(),
                Undo::Connect(other) if at_ns <= now_ns => again.push(What::Connect(other)),
                Undo::Disconnect(other) if at_ns <= now_ns => again.push(What::Disconnect(other)),
                _ => node.undo.push((at_ns, undo)),
            }
        }
        for what in again {
            self.happen_to_client(number, what);
        }
        let node = &mut self.nodes[number];
        let undo_ns = node.undo.iter().map(|(at_ns, _)| *at_ns).min();
        let undo_ns = undo_ns.unwrap_or(u64::MAX).max(now_ns + 1);
        if node.frozen_until_ns > now_ns {
            node.next_ns = node.frozen_until_ns.min(undo_ns);
            return;
        }
        let Some(client) = &mut node.client else {
            return;
        };
        let frames = client.run(now_ns, &mut self.rng);
        let next_ns = client.next_ns().unwrap_or(u64::MAX);
        node.next_ns = next_ns.max(now_ns + 1).min(undo_ns);
        for (to, frame) in frames {
            self.send(number, to, frame);
        }
    }
}
