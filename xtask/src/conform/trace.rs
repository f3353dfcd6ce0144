//! Traces of the deployed client's session code under a controlled clock.
//!
//! A line is a trace: how the session was configured, then what was done to it when, and what it
//! looked like after each step.

use std::fmt;
use std::io::BufRead;

use anyhow::{Context, bail};
use dz_common::deployed::{Deployed, Release};
use dz_common::packet::{Packet, Version};
use dz_common::session::{Mode, NS_PER_US, Timers};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::rules::Differing;

/// The version that the recorded client announced: 0.34.0, stable.
const RECORDED: Version = Version::new([0, 34, 0, 0]);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    name: String,
    config: Config,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    detect_mult: u8,
    tx_min_us: u32,
    rx_min_us: u32,
    min_tx_floor_us: u32,
    max_tx_ceil_us: u32,
    backoff_max_us: u32,
    local_discr: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at_us: u64,
    #[serde(rename = "do")]
    action: Action,
    packet: Option<String>,
    expect: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Rx,
    ExpireIfDue,
    Tx,
}

/// What has been replayed so far.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) traces: usize,
    steps: usize,
    different: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} traces, {} steps: ", self.traces, self.steps)?;
        match self.different {
            0 => write!(f, "all equal"),
            n => write!(f, "{n} traces differ"),
        }
    }
}

/// Replays every line by the deployed rules; returns the first difference of each trace that has
/// one. `ours`: what our rules make of each step.
pub(super) fn replay(
    lines: impl BufRead,
    totals: &mut Totals,
    ours: &mut Differing,
) -> anyhow::Result<Vec<String>> {
    let mut differences = Vec::new();
    for (index, line) in lines.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let trace: Trace =
            serde_json::from_str(&line).with_context(|| format!("line {}", index + 1))?;
        let found = trace
            .replay(ours)
            .with_context(|| format!("line {}", index + 1))?;
        totals.traces += 1;
        totals.steps += trace.steps.len();
        totals.different += usize::from(found.is_some());
        differences.extend(found.map(|found| format!("trace {index} ({}) {found}", trace.name)));
    }
    Ok(differences)
}

impl Trace {
    /// The first step after which the session is not as recorded.
    fn replay(&self, ours: &mut Differing) -> anyhow::Result<Option<String>> {
        let mut end = self.config.end();
        for (number, step) in self.steps.iter().enumerate() {
            let got = step
                .apply(&mut end, ours)
                .with_context(|| format!("step {number}"))?;
            if got != step.expect {
                return Ok(Some(step.difference(number, &got)));
            }
        }
        Ok(None)
    }
}

impl Config {
    fn end(&self) -> Deployed {
        let timers = Timers {
            desired_min_tx_us: self.tx_min_us,
            required_min_rx_us: self.rx_min_us,
            floor_us: self.min_tx_floor_us,
            ceiling_us: self.max_tx_ceil_us,
            backoff_cap_us: self.backoff_max_us,
            detect_mult: self.detect_mult,
            mode: Mode::Active,
            min_ttl: 0,
            reserved: 0,
        };
        Deployed::new(timers, self.local_discr, Release::Since0_32, 0)
    }
}

impl Step {
    /// Does the step and describes the session after it in the recording's terms.
    fn apply(
        &self,
        end: &mut Deployed,
        ours: &mut Differing,
    ) -> anyhow::Result<Map<String, Value>> {
        let now_ns = self.at_us * NS_PER_US;
        let before = *end;
        let mut sent = None;
        match self.action {
            Action::Rx => {
                let bytes = hex::decode(self.packet.as_deref().context("rx without a packet")?)?;
                match Packet::decode(&bytes) {
                    Ok(packet) => {
                        end.receive(&packet, now_ns);
                        ours.received(&before, end, &packet, now_ns)?;
                    }
                    Err(reject) => bail!("recorded packet refused: {reject:?}"),
                }
            }
            Action::ExpireIfDue => _ = end.expire(now_ns),
            Action::Tx => {
                ours.transmitted(end, RECORDED)?;
                let bytes = end.packet(RECORDED).encode();
                // Jitter does not show in what is recorded.
                sent = Some((hex::encode(bytes), end.session.transmitted(now_ns, 0)));
            }
        }
        let session = &end.session;
        let deadline_us = match session.detect_deadline_ns {
            0 => None,
            deadline_ns => Some(deadline_ns / NS_PER_US),
        };
        let mut got = Map::from_iter([
            (
                "changed".into(),
                json!(session.state != before.session.state),
            ),
            ("state".into(), json!(session.state.name())),
            ("peer_discr".into(), json!(session.peer_discr)),
            ("down_reason".into(), json!(session.down_reason.name())),
            ("detect_deadline_us".into(), json!(deadline_us)),
            ("tx_interval_us".into(), json!(session.tx_interval_us())),
            (
                "detect_time_us".into(),
                json!(session.detect_time_ns() / NS_PER_US),
            ),
            ("peer_mode".into(), json!(session.peer_mode.name())),
            (
                "peer_version".into(),
                json!(session.peer_version.to_string()),
            ),
        ]);
        if let Some((packet, interval_us)) = sent {
            got.insert("tx_packet".into(), json!(packet));
            got.insert("next_tx_base_us".into(), json!(interval_us));
        }
        Ok(got)
    }

    fn difference(&self, number: usize, got: &Map<String, Value>) -> String {
        let missing = got.keys().filter(|key| !self.expect.contains_key(*key));
        let fields: Vec<_> = self
            .expect
            .keys()
            .chain(missing)
            .filter(|key| self.expect.get(*key) != got.get(*key))
            .map(|key| {
                let show =
                    |side: &Map<_, _>| side.get(key).map_or("nothing".into(), Value::to_string);
                format!("{key}: expected {}, got {}", show(&self.expect), show(got))
            })
            .collect();
        format!(
            "step {number} ({:?} at {} us): {}",
            self.action,
            self.at_us,
            fields.join("; ")
        )
    }
}
