//! Where our rules lead somewhere else than the deployed client's, from the same state.
//!
//! After a first difference two sessions would go different ways for good, and every later step would
//! differ because of it. So each step is taken from the state that the recording is in.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, bail};
use dz_common::deployed::Deployed;
use dz_common::packet::{Packet, State, Version};
use dz_common::session::Session;

/// A rule of ours that the deployed client does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    UnprovenDown,
    UnprovenAdminDown,
    ZeroEcho,
    Learns,
    Forgets,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnprovenDown => "a Down that does not echo us changes nothing",
            Self::UnprovenAdminDown => "an AdminDown that does not echo us changes nothing",
            Self::ZeroEcho => "an Init or Up that echoes nobody changes nothing (RFC 5880 6.8.6)",
            Self::Learns => {
                "the sender's discriminator is taken from every proven packet (RFC 5880 6.8.6)"
            }
            Self::Forgets => {
                "two packets after leaving Up echo the peer, later ones nobody (RFC 5880 6.8.1)"
            }
        })
    }
}

/// How many steps differ by which rule.
#[derive(Debug, Default)]
pub(super) struct Differing {
    steps: usize,
    by_rule: BTreeMap<Rule, usize>,
}

impl Differing {
    /// Takes a received packet from the state that the deployed client was in.
    ///
    /// # Errors
    /// Ours leads somewhere else, and by none of the rules.
    pub(super) fn received(
        &mut self,
        before: &Deployed,
        after: &Deployed,
        packet: &Packet,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        self.steps += 1;
        let mut ours = before.session;
        ours.receive(packet, now_ns);
        // When to transmit is the clock's matter, and what is echoed that of `transmitted`.
        let reached = Session {
            next_tx_ns: after.session.next_tx_ns,
            echoes_left: after.session.echoes_left,
            ..ours
        };
        if reached == after.session {
            return Ok(());
        }
        let proven = packet.your_discr == before.session.local_discr;
        let learned = Session {
            peer_discr: after.session.peer_discr,
            ..reached
        };
        let rule = match packet.state {
            _ if proven && learned == after.session => Rule::Learns,
            _ if proven || ours != before.session => {
                bail!("{packet:?}: ours has no rule to differ by: {ours:?}")
            }
            State::AdminDown => Rule::UnprovenAdminDown,
            State::Down => Rule::UnprovenDown,
            State::Init | State::Up => Rule::ZeroEcho,
        };
        *self.by_rule.entry(rule).or_default() += 1;
        Ok(())
    }

    /// Compares what is transmitted from the state that the deployed client is in.
    ///
    /// # Errors
    /// Ours transmits something else, and by none of the rules.
    pub(super) fn transmitted(&mut self, end: &Deployed, version: Version) -> anyhow::Result<()> {
        self.steps += 1;
        let mut ours = end.session;
        ours.transmitted(end.session.last_tx_ns, 0);
        let (theirs, ours) = (end.packet(version), ours.packet(version));
        if ours == theirs {
            return Ok(());
        }
        let silent = Packet {
            your_discr: 0,
            ..theirs
        };
        let forgotten = (ours == silent).then_some(());
        forgotten.with_context(|| format!("ours has no rule to transmit {ours:?} by"))?;
        *self.by_rule.entry(Rule::Forgets).or_default() += 1;
        Ok(())
    }
}

impl fmt::Display for Differing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differing: usize = self.by_rule.values().sum();
        write!(
            f,
            "with our rules {differing} of {} steps that receive or transmit lead elsewhere (--trust deployed: none):",
            self.steps
        )?;
        for (rule, steps) in &self.by_rule {
            write!(f, "\n  {steps:5}  {rule}")?;
        }
        Ok(())
    }
}
