//! The command line as it is written: its subcommands and their options.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::command::{Named, Selector};
use crate::error::{ExitCode, Failure};
use crate::net::routes::DEFAULT_PROTOCOL;
use crate::settings::address::{parse_host, parse_interface};
use crate::settings::values::{interval, micros, route_protocol};
use crate::settings::{DEFAULT_PIN_DIR, PeerRequest, RunOptions};

/// Liveness for DoubleZero tunnels: sessions live in the kernel, routes follow.
#[derive(Debug, Parser)]
#[command(name = "dz-agent", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// Unix socket of the agent.
    #[arg(
        long,
        global = true,
        env = "DZ_AGENT_SOCKET",
        value_name = "PATH",
        default_value = "/run/dz-agent/dz-agent.sock"
    )]
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

impl Cli {
    /// Reads the command line. Help and version are printed, and end the process.
    ///
    /// # Errors
    /// [`ExitCode::Usage`], in one line, if it makes no sense.
    pub fn read() -> Result<Self, Failure> {
        Self::try_parse().map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
            _ => Failure::new(ExitCode::Usage, one_line(&error.render().to_string())),
        })
    }
}

/// Makes one line of clap's error text, without its closing hint.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said: Vec<_> = lines
        .filter(|line| !line.starts_with("For more information"))
        .collect();
    said.join("; ").replace(":; ", ": ")
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not allowed, 4 kernel lacks a \
    feature, 5 interface cannot be served, 6 already running, 7 no agent at the \
    socket, 8 refused by the agent";

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run the agent.
    Run(Box<RunOptions>),
    /// Do with full rights what the same `run` may need and a service's rights do not allow: take over the kernel part of an
    /// earlier version, remove programs of dead agents with other pins, mount the BPF file system. Ends at once.
    Prepare(Box<RunOptions>),
    /// Keep a session with each of these peers.
    Connect(ConnectOptions),
    /// Give sessions up: AdminDown to the peers, routes withdrawn.
    Disconnect(DisconnectOptions),
    /// Read the file of --peers again, as SIGHUP has it done, and say what came of it.
    Reload(ReloadOptions),
    /// Remove what a dead agent has left: routes, programs, pins. What is not ours stays.
    Purge(PurgeOptions),
    /// Show the agent and its interfaces, and why one of them is not served.
    Status(ShowOptions),
    /// Show the sessions.
    Sessions(SessionsOptions),
    /// Show the counters of the kernel programs.
    Counters(CountersOptions),
}

/// Options of `connect`.
#[derive(Args, Debug)]
pub struct ConnectOptions {
    /// Addresses of the peers.
    #[arg(required_unless_present = "file", value_name = "PEER", value_parser = parse_host)]
    pub peers: Vec<Ipv4Addr>,
    /// More peers, one per line ("-": standard input): JSON as in the API, or "PEER [local ADDR]
    /// [interface NAME] [via ADDR] [tx-interval TIME] [rx-interval TIME] [detect-mult N]
    /// [min-ttl N] [passive|active]". The options given here are defaults for lines that leave them out.
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Our address, of whichever interface of this host [default: the interface's only global one,
    /// else the tunnel's outer one, else the kernel's choice].
    #[arg(long, value_name = "ADDR", value_parser = parse_host)]
    pub local: Option<Ipv4Addr>,
    /// The interface [default: the agent's one that holds the local address, or whose tunnel starts
    /// there].
    #[arg(long, value_name = "NAME", value_parser = parse_interface)]
    pub interface: Option<String>,
    /// Gateway of the peers' routes [default: the far end of the interface's link, where the local
    /// address is not the interface's own].
    #[arg(long, value_name = "GATEWAY", value_parser = parse_host)]
    pub via: Option<Ipv4Addr>,
    /// How often we want to send [default: the agent's].
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub tx_interval: Option<Duration>,
    /// How often we are willing to receive [default: the agent's].
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub rx_interval: Option<Duration>,
    /// Missed packets that make a peer Down [default: the agent's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub detect_mult: Option<u8>,
    /// Fewest hops that the peers' packets may have left, 0 for any [default: the agent's].
    #[arg(long, value_name = "N")]
    pub min_ttl: Option<u8>,
    /// Leave the peers' routes alone.
    #[arg(long)]
    pub passive: bool,
}

impl ConnectOptions {
    /// Returns the values of peers whose lines leave them out.
    pub fn defaults(&self) -> PeerRequest {
        PeerRequest {
            peer: String::new(),
            local: self.local.map(|local| local.to_string()),
            interface: self.interface.clone(),
            via: self.via.map(|via| via.to_string()),
            tx_interval_us: self.tx_interval.map(micros),
            rx_interval_us: self.rx_interval.map(micros),
            detect_mult: self.detect_mult,
            min_ttl: self.min_ttl,
            passive: self.passive.then_some(true),
        }
    }
}

/// Options of `disconnect`.
#[derive(Args, Debug)]
pub struct DisconnectOptions {
    /// Addresses of the peers.
    #[arg(
        value_name = "PEER",
        value_parser = parse_host,
        required_unless_present_any = ["all", "file"],
        conflicts_with = "all"
    )]
    pub peers: Vec<Ipv4Addr>,
    /// More peers, one per line ("-": standard input), in the form that connect reads.
    #[arg(long, value_name = "PATH", conflicts_with = "all")]
    pub file: Option<PathBuf>,
    /// Every peer that was connected through the API.
    #[arg(long)]
    pub all: bool,
    /// Only on this interface.
    #[arg(long, value_name = "NAME", value_parser = parse_interface)]
    pub interface: Option<String>,
}

impl DisconnectOptions {
    /// Selects the sessions that the options name.
    pub fn selector(&self) -> Selector {
        let interface = self.interface.clone();
        if self.all {
            Selector::All { interface }
        } else {
            let named = |&peer: &Ipv4Addr| Named {
                interface: interface.clone(),
                peer,
            };
            Selector::Peers(self.peers.iter().map(named).collect())
        }
    }
}

/// Options of `reload`.
#[derive(Args, Debug)]
pub struct ReloadOptions {
    /// Also if the file names no peer, or more than half of ten or more peers would be given up.
    #[arg(long)]
    pub force: bool,
}

/// Options of `purge`: those of the agent that is dead.
#[derive(Args, Debug)]
pub struct PurgeOptions {
    /// Interface that may have routes of ours, apart from those that our programs are found on; may
    /// be given several times.
    #[arg(
        long = "interface",
        env = "DZ_AGENT_INTERFACE",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "doublezero0",
        value_parser = parse_interface
    )]
    pub interfaces: Vec<String>,
    /// Where maps and links are pinned.
    #[arg(
        long,
        env = "DZ_AGENT_PIN_DIR",
        value_name = "PATH",
        default_value = DEFAULT_PIN_DIR
    )]
    pub pin_dir: PathBuf,
    /// Protocol number of our routes.
    #[arg(long, env = "DZ_AGENT_ROUTE_PROTOCOL", value_name = "N",
        default_value_t = DEFAULT_PROTOCOL, value_parser = route_protocol)]
    pub route_protocol: u8,
    /// Only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `status`.
#[derive(Args, Debug)]
pub struct ShowOptions {
    /// As the agent's API has it.
    #[arg(long)]
    pub json: bool,
}

/// Options of `sessions`.
#[derive(Args, Debug)]
pub struct SessionsOptions {
    /// As the agent's API has it: everything.
    #[arg(long)]
    pub json: bool,
    /// Those of peers that have left, too: followed ones that are long Down without a packet.
    #[arg(long)]
    pub all: bool,
}

/// Options of `counters`.
#[derive(Args, Debug)]
pub struct CountersOptions {
    /// As the agent's API has it: everything, zeros included.
    #[arg(long)]
    pub json: bool,
    /// Those that are zero, too.
    #[arg(long)]
    pub all: bool,
}

#[cfg(test)]
mod tests;
