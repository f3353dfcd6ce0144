//! Writes every metric family from one snapshot.
//!
//! Names and label values are those of the deployed client where it has one
//! (`client/doublezerod/internal/liveness/metrics.go` in `malbeclabs/doublezero`): dashboards and
//! alerts written for it keep working. Families that it lacks are ours.

use std::collections::BTreeMap;
use std::fmt;
use std::time::UNIX_EPOCH;

use dz_common::counters::{Counter, Counters, Kind};
use dz_common::packet::State;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::labels::ServiceLabels;
use super::recorded::Recorded;
use super::write::{Out, counter, gauge, single};
use super::{peers, programs, transitions};
use crate::view::{RouteTotals, Snapshot, VERSION};

/// The values of one scrape, by their labels.
#[derive(Debug)]
pub(super) struct Families {
    snapshot: Snapshot,
    recorded: Recorded,
    removals_before: u64,
    per_peer: bool,
    /// By labels: an interface that was created anew may have two blocks, and a series written
    /// twice makes the whole scrape invalid.
    blocks: BTreeMap<ServiceLabels, Counters>,
}

type Label = [(&'static str, &'static str); 1];

/// Packets that a deployed client would call invalid, with its names where it has one. Those
/// ignored by rules 1 and 2 are valid ones.
const INVALID: [(Counter, &str); 9] = [
    (Counter::DropShort, "short"),
    (Counter::DropVersion, "bad_version"),
    (Counter::DropLength, "bad_len"),
    (Counter::DropUdpLength, "bad_udp_len"),
    (Counter::DropUdpChecksum, "bad_udp_checksum"),
    (Counter::DropZeroMultiplier, "zero_multiplier"),
    (Counter::DropZeroDiscriminator, "zero_discriminator"),
    (Counter::DropSourcePort, "source_port"),
    (Counter::DropTtl, "ttl"),
];

/// Answers that were due and not sent.
const SUPPRESSED: [(Counter, &str); 5] = [
    (Counter::RxPaced, "paced"),
    (Counter::RxBurstSpent, "burst_spent"),
    (Counter::RxUnattended, "unattended"),
    (Counter::RxLong, "long"),
    (Counter::RxAnswerFailed, "failed"),
];

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        self.sessions(out)?;
        transitions::encode(out, &self.blocks)?;
        peers::encode(out, &self.snapshot)?;
        programs::encode(out, &self.snapshot)?;
        self.routes(out)?;
        self.convergence(out)?;
        self.packets(out)?;
        self.counters(out)?;
        if self.per_peer {
            self.peers(out)?;
        }
        self.agent(out)
    }
}

impl Families {
    pub(super) fn new(
        snapshot: Snapshot,
        recorded: Recorded,
        removals_before: u64,
        per_peer: bool,
    ) -> Self {
        let mut blocks = BTreeMap::<_, Counters>::new();
        for block in &snapshot.blocks {
            let labels = ServiceLabels {
                iface: block.interface.clone().unwrap_or_default(),
                local_ip: block
                    .local
                    .map(|local| local.to_string())
                    .unwrap_or_default(),
            };
            blocks.entry(labels).or_default().add(&block.counters);
        }
        Self {
            snapshot,
            recorded,
            removals_before,
            per_peer,
            blocks,
        }
    }

    fn sessions(&self, out: Out<'_, '_>) -> fmt::Result {
        // States without a session are shown as 0, for every address that we serve.
        let mut states = BTreeMap::<_, [u64; State::ALL.len()]>::new();
        for session in &self.snapshot.sessions {
            let service = (&*session.interface, session.local());
            states.entry(service).or_default()[session.entry.session.state as usize] += 1;
        }
        let service = |((interface, local), counts)| (ServiceLabels::new(interface, local), counts);
        let mut states: BTreeMap<_, _> = states.into_iter().map(service).collect();
        for labels in self.blocks.keys().filter(|labels| !labels.iface.is_empty()) {
            states.entry(labels.clone()).or_default();
        }
        let rows = states.iter().flat_map(|(labels, counts)| {
            State::ALL.map(|state| (with(labels, "state", state.name()), counts[state as usize]))
        });
        let help = "Sessions by state";
        gauge(out, "doublezero_liveness_sessions", help, rows)
    }

    fn routes(&self, out: Out<'_, '_>) -> fmt::Result {
        let mut totals = BTreeMap::<_, [u64; 8]>::new();
        for route in &self.snapshot.routes {
            let RouteTotals {
                interface, local, ..
            } = route;
            let sums = totals
                .entry(ServiceLabels::new(interface, *local))
                .or_default();
            let values = [
                route.installed,
                route.installs,
                route.withdraws,
                route.install_failures,
                route.uninstall_failures,
                route.repairs,
                route.conflicts,
                route.holds,
            ];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        let column = |i: usize| {
            totals
                .iter()
                .map(move |(labels, sums)| (labels.clone(), sums[i]))
        };
        let help = "Routes of ours in the kernel's table";
        gauge(out, "doublezero_liveness_routes_installed", help, column(0))?;
        let help = "Routes of ours in the kernel's table, all interfaces";
        let all = self
            .snapshot
            .routes
            .iter()
            .map(|route| route.installed)
            .sum::<u64>();
        single(
            out,
            "doublezero_liveness_installed_map_size",
            help,
            &ConstGauge::new(all),
        )?;
        for (i, name, help) in [
            (1, "route_installs", "Routes installed"),
            (2, "route_withdraws", "Routes withdrawn"),
            (
                3,
                "route_install_failures",
                "Route installs that the kernel refused",
            ),
            (
                4,
                "route_uninstall_failures",
                "Route withdrawals that the kernel refused",
            ),
            (
                5,
                "route_repairs",
                "Routes put back after somebody else had deleted or changed them",
            ),
        ] {
            counter(out, &format!("doublezero_liveness_{name}"), help, column(i))?;
        }
        let help = "Sessions that cannot have their route, since somebody else has one there";
        gauge(out, "doublezero_liveness_route_conflicts", help, column(6))?;
        let help = "How often damping has begun to hold a session";
        counter(out, "doublezero_liveness_holds", help, column(7))
    }

    fn convergence(&self, out: Out<'_, '_>) -> fmt::Result {
        let convergence = &self.recorded.convergence;
        let help = "From the first packet accepted while Down until Up and its route installed";
        let name = "doublezero_liveness_convergence_to_up_seconds";
        convergence
            .up
            .encode(out.encode_descriptor(name, help, None, MetricType::Histogram)?)?;
        let help = "From the first packet missing, or the one that said Down, until the route is \
            withdrawn";
        let name = "doublezero_liveness_convergence_to_down_seconds";
        convergence
            .down
            .encode(out.encode_descriptor(name, help, None, MetricType::Histogram)?)
    }

    fn packets(&self, out: Out<'_, '_>) -> fmt::Result {
        let sent = |c: &Counters| c.rx_answered + c.rx_unproven_answered + c.tx_originated;
        let help = "Liveness packets sent: answers and those of our own clock";
        counter(
            out,
            "doublezero_liveness_control_packets_tx",
            help,
            self.column(sent),
        )?;
        let help =
            "Liveness packets received for a session, by the version that the peer announces";
        let name = "doublezero_liveness_control_packets_rx";
        let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        self.recorded.rx_versions.look(
            &self.snapshot.sessions,
            self.removals_before,
            |iface, local, version, total| {
                let labels = ServiceLabels::new(iface, local.into());
                let labels = (labels, [("peer_client_version", version)]);
                ConstCounter::new(total).encode(family.encode_family(&labels)?)
            },
        )?;
        let help = "Packets to our port that are not liveness packets";
        let rows = self.table("reason", &INVALID);
        counter(
            out,
            "doublezero_liveness_control_packets_rx_invalid",
            help,
            rows,
        )?;
        let help = "Packets to our port and address without a session";
        let unknown = |c: &Counters| c.drop_unknown_peer + c.pass_unknown_peer;
        counter(
            out,
            "doublezero_liveness_unknown_peer_packets",
            help,
            self.column(unknown),
        )?;
        let help = "Packets answered inside the kernel";
        counter(
            out,
            "doublezero_liveness_answered",
            help,
            self.column(|c| c.rx_answered),
        )?;
        let help = "Packets sent on our own clock";
        counter(
            out,
            "doublezero_liveness_originated",
            help,
            self.column(|c| c.tx_originated),
        )?;
        let help = "Packets that were not answered, by reason";
        counter(
            out,
            "doublezero_liveness_suppressed",
            help,
            self.table("reason", &SUPPRESSED),
        )
    }

    fn counters(&self, out: Out<'_, '_>) -> fmt::Result {
        for (kind, name, label, help) in [
            (
                Kind::Exit,
                "exits",
                "exit",
                "Runs of the kernel programs by the way out; gate_* of what leaves",
            ),
            (
                Kind::Tally,
                "tallies",
                "tally",
                "What happened on the way to an exit",
            ),
        ] {
            let counters = Counter::ALL.iter().filter(|counter| counter.kind() == kind);
            let rows = self.blocks.iter().flat_map(|(labels, block)| {
                let row = move |&c: &Counter| (with(labels, label, c.name()), block.get(c));
                counters.clone().map(row)
            });
            counter(out, &format!("doublezero_liveness_{name}"), help, rows)?;
        }
        Ok(())
    }

    fn peers(&self, out: Out<'_, '_>) -> fmt::Result {
        let mut peers = BTreeMap::<_, ([u64; State::ALL.len()], u64)>::new();
        for session in &self.snapshot.sessions {
            let service = ServiceLabels::new(&session.interface, session.local());
            let (states, detect_ns) = peers.entry((service, session.peer())).or_default();
            states[session.entry.session.state as usize] += 1;
            *detect_ns = session.entry.session.detect_time_ns();
        }
        let rows = peers.iter().flat_map(|((labels, peer), (states, _))| {
            State::ALL.map(|state| {
                let peer = [("peer_ip", peer.to_string())];
                let labels = (with(labels, "state", state.name()), peer);
                (labels, states[state as usize])
            })
        });
        gauge(
            out,
            "doublezero_liveness_peer_sessions",
            "Sessions by peer and state",
            rows,
        )?;
        let rows = peers.iter().map(|((labels, peer), (_, detect_ns))| {
            let labels = (labels.clone(), [("peer_ip", peer.to_string())]);
            (labels, seconds(*detect_ns))
        });
        let name = "doublezero_liveness_peer_session_detect_time_seconds";
        gauge(out, name, "Detection time in force", rows)
    }

    fn agent(&self, out: Out<'_, '_>) -> fmt::Result {
        let agent = &self.snapshot.agent;
        let help = "Events of the kernel programs that did not reach the agent";
        let name = "doublezero_liveness_events_lost";
        single(out, name, help, &ConstCounter::new(agent.events_lost))?;
        let help = "Times that the kernel dropped netlink notifications to the agent";
        let name = "doublezero_liveness_notification_overruns";
        single(
            out,
            name,
            help,
            &ConstCounter::new(agent.notification_overruns),
        )?;
        let help = "Full checks that could not read everything and were repeated";
        let name = "doublezero_liveness_checks_failed";
        single(out, name, help, &ConstCounter::new(agent.checks_failed))?;
        let help = "Lines of the log that were dropped because nobody has read standard error";
        let name = "doublezero_liveness_log_lines_dropped";
        single(out, name, help, &ConstCounter::new(agent.log_lines_dropped))?;
        let help = "For how long the last full check kept everything else waiting";
        let name = "doublezero_liveness_full_check_seconds";
        let took = ConstGauge::new(seconds(agent.full_check_ns));
        single(out, name, help, &took)?;
        let help = "Time since the agent's loop last said that it is alive";
        let name = "doublezero_liveness_heartbeat_age_seconds";
        single(
            out,
            name,
            help,
            &ConstGauge::new(seconds(agent.heartbeat_age_ns)),
        )?;
        let help = "Always 1; the labels say what runs";
        let labels = [("version", VERSION)];
        gauge(out, "dz_agent_build_info", help, [(labels, 1_u64)])?;
        let started = agent
            .started_at
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let help = "Start of the agent, seconds since 1970";
        let started = ConstGauge::new(started.as_secs_f64());
        single(out, "process_start_time_seconds", help, &started)
    }

    /// Returns one value per block; of block 0 only if it is not 0.
    fn column(&self, value: fn(&Counters) -> u64) -> impl Iterator<Item = (ServiceLabels, u64)> {
        let rows = self
            .blocks
            .iter()
            .map(move |(labels, block)| (labels.clone(), value(block)));
        rows.filter(|(labels, value)| !labels.iface.is_empty() || *value > 0)
    }

    /// Returns one value per block and name; of block 0 only if it is not 0.
    fn table(
        &self,
        label: &'static str,
        names: &'static [(Counter, &'static str)],
    ) -> impl Iterator<Item = ((ServiceLabels, Label), u64)> {
        let rows = self.blocks.iter().flat_map(move |(labels, block)| {
            names
                .iter()
                .map(move |(c, name)| (with(labels, label, name), block.get(*c)))
        });
        rows.filter(|((labels, _), value)| !labels.iface.is_empty() || *value > 0)
    }
}

fn with(labels: &ServiceLabels, name: &'static str, value: &'static str) -> (ServiceLabels, Label) {
    (labels.clone(), [(name, value)])
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}
