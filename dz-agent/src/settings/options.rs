//! Options of `run`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use dz_common::gate::Action;
use dz_common::map::{MAX_GROUPS, SLOTS_PER_GROUP};
use dz_common::session::{Mode, Timers};
use ipnet::Ipv4Net;

use super::address::parse_interface;
use super::follow::{Conditions, Follows};
use super::policy::{self, Overrides, Policy};
use super::values::{MetricsListen, Tos, grace, hold_up, interval, micros, route_protocol};
use crate::error::{ExitCode, Failure};

/// The folder that maps and links are pinned in by default.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/dz-agent";

/// Options of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Interface to serve; may be given several times. It need not exist yet.
    #[arg(
        long = "interface",
        env = "DZ_AGENT_INTERFACE",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "doublezero0",
        value_parser = parse_interface
    )]
    pub interfaces: Vec<String>,
    /// Peers to keep a session with, one per line as for `connect --file`; those of a line whose
    /// address is not there yet wait for it. Read again on SIGHUP.
    #[arg(long, env = "DZ_AGENT_PEERS", value_name = "PATH")]
    pub peers: Option<PathBuf>,
    /// Peers are the /32 routes of another daemon that meet these conditions: proto=NAME (bgp, bird,
    /// zebra, a number), table=NAME, or both with a comma between. proto alone looks in the main
    /// table, table alone takes all but the kernel's routes and ours. May be given several times,
    /// for alternatives.
    #[arg(long, env = "DZ_AGENT_FOLLOW", value_name = "CONDITION")]
    pub follow: Vec<Follows>,
    /// Destinations that never have a session: an address or a prefix; may be given several times,
    /// or with commas. Also as lines "exclude PREFIX" of the --peers file.
    #[arg(long, env = "DZ_AGENT_EXCLUDE", value_name = "PREFIX", value_delimiter = ',',
        value_parser = policy::prefix)]
    pub exclude: Vec<Ipv4Net>,
    /// Other timers for some peers: "PREFIX [tx-interval TIME] [rx-interval TIME] [detect-mult N]
    /// [min-ttl N] [passive|active]"; may be given several times, or with ";". The longest prefix counts, unless
    /// a peer says otherwise itself. Also as lines "override ..." of the --peers file.
    #[arg(long = "override", env = "DZ_AGENT_OVERRIDE", value_name = "OVERRIDE")]
    pub overrides: Vec<Overrides>,
    /// How to attach to the interface.
    #[arg(long, env = "DZ_AGENT_ATTACH", value_enum, default_value_t = Attach::Auto)]
    pub attach: Attach,
    /// What happens to liveness packets of peers that we have no session with.
    #[arg(long, env = "DZ_AGENT_UNKNOWN", value_enum, default_value_t = UnknownPeers::Drop)]
    pub unknown: UnknownPeers,
    /// What happens to packets for a peer that was Up and is not.
    #[arg(long, env = "DZ_AGENT_WHEN_DOWN", value_enum, default_value_t = Gate::Reroute)]
    pub when_down: Gate,
    /// What happens to packets for a peer that was never Up.
    #[arg(long, env = "DZ_AGENT_WHEN_NEVER_UP", value_enum, default_value_t = Gate::Pass)]
    pub when_never_up: Gate,
    /// Whether a peer that says that it is passive makes the session passive.
    #[arg(long, env = "DZ_AGENT_PEER_PASSIVE", value_enum, default_value_t = PeerPassive::Honour)]
    pub peer_passive: PeerPassive,
    /// Where maps and links are pinned (a folder of a BPF file system).
    #[arg(
        long,
        env = "DZ_AGENT_PIN_DIR",
        value_name = "PATH",
        default_value = DEFAULT_PIN_DIR
    )]
    pub pin_dir: PathBuf,
    /// Where the secret of our discriminators is kept.
    #[arg(
        long,
        env = "DZ_AGENT_STATE_DIR",
        value_name = "PATH",
        default_value = "/var/lib/dz-agent"
    )]
    pub state_dir: PathBuf,
    /// UDP port of the liveness protocol.
    #[arg(
        long,
        env = "DZ_AGENT_PORT",
        default_value_t = dz_common::LIVENESS_PORT,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub port: u16,
    /// Whether we take the port on each interface, so that no other program answers there beside
    /// us. Interfaces are served all the same while somebody else has it.
    #[arg(long, env = "DZ_AGENT_PORT_GUARD", value_enum, default_value_t = Switch::On)]
    pub port_guard: Switch,
    /// Most sessions.
    #[arg(
        long,
        env = "DZ_AGENT_MAX_SESSIONS",
        value_name = "N",
        default_value_t = 16_384,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(SLOTS_PER_GROUP * MAX_GROUPS))
    )]
    pub max_sessions: u32,
    /// How often we want to send.
    #[arg(long, env = "DZ_AGENT_TX_INTERVAL", value_name = "TIME", default_value = "1s",
        value_parser = interval)]
    pub tx_interval: Duration,
    /// How often we are willing to receive.
    #[arg(long, env = "DZ_AGENT_RX_INTERVAL", value_name = "TIME", default_value = "1s",
        value_parser = interval)]
    pub rx_interval: Duration,
    /// Missed packets that make a peer Down.
    #[arg(long, env = "DZ_AGENT_DETECT_MULT", value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u8).range(1..))]
    pub detect_mult: u8,
    /// Fewest hops that a peer's packets may have left (RFC 5082): 255 for peers on the same link, if
    /// they send with 255; 0 for any.
    #[arg(long, env = "DZ_AGENT_MIN_TTL", value_name = "N", default_value_t = 0)]
    pub min_ttl: u8,
    /// Time to live of what we send.
    #[arg(long, env = "DZ_AGENT_TTL", value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u8).range(1..))]
    pub ttl: u8,
    /// Type of service of what we send: cs0 to cs7, ef, or a number (0xc0). A tunnel copies it to the
    /// outer header only if it was made with `tos inherit`.
    #[arg(long, env = "DZ_AGENT_TOS", value_name = "TOS", default_value = "cs6")]
    pub tos: Tos,
    /// Every interval, ours or a peer's, is raised to this.
    #[arg(long, env = "DZ_AGENT_INTERVAL_FLOOR", value_name = "TIME", default_value = "50ms",
        value_parser = interval)]
    pub interval_floor: Duration,
    /// Every interval, ours or a peer's, is lowered to this.
    #[arg(long, env = "DZ_AGENT_INTERVAL_CEILING", value_name = "TIME", default_value = "3s",
        value_parser = interval)]
    pub interval_ceiling: Duration,
    /// Longest transmit interval while a peer is Down.
    #[arg(long, env = "DZ_AGENT_BACKOFF_CAP", value_name = "TIME", default_value = "5s",
        value_parser = interval)]
    pub backoff_cap: Duration,
    /// How long the kernel goes on answering without us.
    #[arg(long, env = "DZ_AGENT_RESTART_GRACE", value_name = "TIME", default_value = "30s",
        value_parser = grace)]
    pub restart_grace: Duration,
    /// Whether a session that goes Down more than 5 times within 30 s, or whose route others take more than 20
    /// times, is held: for 5 s, then longer each time, up to 60 s, it does not count as Up.
    #[arg(long, env = "DZ_AGENT_DAMPING", value_enum, default_value_t = Switch::On)]
    pub damping: Switch,
    /// How long a session must have been Up before it counts as Up, for its route and for the gate.
    #[arg(long, env = "DZ_AGENT_HOLD_UP", value_name = "TIME", default_value = "0s",
        value_parser = hold_up)]
    pub hold_up: Duration,
    /// Protocol number of our routes. Routes that carry it on our interfaces are ours to delete.
    #[arg(long, env = "DZ_AGENT_ROUTE_PROTOCOL", value_name = "N", default_value = "144",
        value_parser = route_protocol)]
    pub route_protocol: u8,
    /// Where /metrics is served: an address of this host and a port, "localhost" and a port, or nothing before
    /// the colon for all addresses, where every user of this host may read; "unix:" and the path of a socket, for the
    /// agent's group; or "off".
    #[arg(
        long,
        env = "DZ_AGENT_METRICS_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:44881"
    )]
    pub metrics_listen: MetricsListen,
    /// Metrics for each peer, too: as many series as there are peers.
    #[arg(long, env = "DZ_AGENT_METRICS_PER_PEER", value_parser = BoolishValueParser::new())]
    pub metrics_per_peer: bool,
    /// Whether the threads of events and routes run before everything that is not real-time
    /// (SCHED_FIFO), with their memory locked.
    #[arg(long, env = "DZ_AGENT_REALTIME", value_enum, default_value_t = Realtime::Auto)]
    pub realtime: Realtime,
    /// Form of the log on standard error.
    #[arg(long, env = "DZ_AGENT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace.
    #[arg(
        long,
        env = "DZ_AGENT_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info"
    )]
    pub log_level: tracing::level_filters::LevelFilter,
}

/// How to attach to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// Native XDP where the device's driver is known to send XDP's answers by itself, else TC.
    Auto,
    /// TC ingress.
    Tc,
    /// XDP in the driver.
    Xdp,
    /// XDP in the kernel's generic path.
    XdpGeneric,
}

/// Turns something on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is done.
    On,
    /// It is not done.
    Off,
}

/// The action on liveness packets of unknown peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownPeers {
    /// They end here.
    Drop,
    /// They go on to the stack.
    Pass,
}

/// The action on packets for a peer that is not Up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gate {
    /// They leave by the best route through no served interface.
    Reroute,
    /// They end here.
    Drop,
    /// They go into the tunnel all the same.
    Pass,
}

impl From<Gate> for Action {
    fn from(gate: Gate) -> Self {
        match gate {
            Gate::Reroute => Self::Reroute,
            Gate::Drop => Self::Drop,
            Gate::Pass => Self::Pass,
        }
    }
}

/// The effect of a peer's passive bit on its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PeerPassive {
    /// The session is passive: its route and traffic are left alone.
    Honour,
    /// The bit has no effect.
    Ignore,
}

/// Whether the threads of events and routes run before others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Realtime {
    /// They run before others where we may and there is more than one processor.
    Auto,
    /// They run before others, or the agent does not start.
    On,
    /// They run as other threads do.
    Off,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl RunOptions {
    /// Checks the options for contradictions between them.
    ///
    /// # Errors
    /// [`ExitCode::Usage`] with the first contradiction.
    pub fn validate(&self) -> Result<(), Failure> {
        let fail = |text: String| Err(Failure::new(ExitCode::Usage, text));
        let names: BTreeSet<_> = self.interfaces.iter().collect();
        if names.len() != self.interfaces.len() {
            return fail("--interface: the same name is given twice".to_owned());
        }
        let (floor, ceiling) = (self.interval_floor, self.interval_ceiling);
        let show = humantime::format_duration;
        if floor > ceiling {
            return fail(format!(
                "--interval-floor {} is above --interval-ceiling {}",
                show(floor),
                show(ceiling)
            ));
        }
        for (name, time) in [("tx", self.tx_interval), ("rx", self.rx_interval)] {
            if time < floor || time > ceiling {
                return fail(format!(
                    "--{name}-interval {}: must lie between --interval-floor {} and \
                     --interval-ceiling {}",
                    show(time),
                    show(floor),
                    show(ceiling)
                ));
            }
        }
        let mut policy = Policy::default();
        for rule in self.overrides.iter().flat_map(|rules| &rules.0) {
            if policy.set(*rule) {
                return fail(format!("--override {}: given twice", rule.prefix));
            }
        }
        if self.backoff_cap < self.tx_interval {
            return fail(format!(
                "--backoff-cap {} is below --tx-interval {}",
                show(self.backoff_cap),
                show(self.tx_interval)
            ));
        }
        Ok(())
    }

    /// Returns the conditions of `--follow`.
    ///
    /// # Errors
    /// [`ExitCode::Usage`] if our own routes meet them.
    pub fn conditions(&self) -> Result<Conditions, Failure> {
        let conditions = Conditions::new(&self.follow, self.route_protocol);
        conditions.map_err(|fault| Failure::new(ExitCode::Usage, fault))
    }

    /// Returns the exclusions and overrides of the options; the file of peers may add some.
    pub fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        self.exclude
            .iter()
            .for_each(|prefix| policy.exclude(*prefix));
        for rule in self.overrides.iter().flat_map(|rules| &rules.0) {
            policy.set(*rule);
        }
        policy
    }

    /// Returns the timers of sessions whose peers have none of their own.
    pub fn timers(&self) -> Timers {
        Timers {
            desired_min_tx_us: micros(self.tx_interval),
            required_min_rx_us: micros(self.rx_interval),
            floor_us: micros(self.interval_floor),
            ceiling_us: micros(self.interval_ceiling),
            backoff_cap_us: micros(self.backoff_cap),
            detect_mult: self.detect_mult,
            mode: Mode::Active,
            min_ttl: self.min_ttl,
            reserved: 0,
        }
    }
}
