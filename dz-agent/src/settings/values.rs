//! Reads option values that clap cannot read by itself.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Longest interval that the wire format has room for.
const MAX_INTERVAL: Duration = Duration::from_micros(u32::MAX as u64);

/// Reads an interval: whole microseconds, 1 ms to 4,294 s (32 bits of µs on the wire).
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < Duration::from_millis(1) || time > MAX_INTERVAL {
        return Err("must be between 1ms and 4294s".to_owned());
    }
    if time.subsec_nanos() % 1_000 != 0 {
        return Err("must be whole microseconds".to_owned());
    }
    Ok(time)
}

/// Reads the restart grace: 1 s to a day.
pub(crate) fn grace(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < Duration::from_secs(1) || time > Duration::from_secs(86_400) {
        return Err("must be between 1s and 1day".to_owned());
    }
    Ok(time)
}

/// Reads for how long a session must have been Up to count: 0 to an hour.
pub(crate) fn hold_up(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time > Duration::from_secs(3_600) {
        return Err("must be at most 1h".to_owned());
    }
    Ok(time)
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 300ms or 1s"))
}

/// Returns an [`interval`] in the wire's unit, µs.
pub(crate) fn micros(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros()).unwrap_or(u32::MAX)
}

/// Reads a route protocol number that nobody else uses: whatever carries it, we delete.
pub(crate) fn route_protocol(text: &str) -> Result<u8, String> {
    let number: u8 = text
        .parse()
        .map_err(|_| "must be a number between 18 and 255".to_owned())?;
    // `include/uapi/linux/rtnetlink.h`, RTPROT_*.
    match number {
        0..18 => Err(format!(
            "{number} is the kernel's or a well-known program's"
        )),
        42 | 186..=189 | 192 => Err(format!("{number} is a routing daemon's (RTPROT_*)")),
        _ => Ok(number),
    }
}

/// A type of service: DSCP in the upper six bits. The lower two are ECN's (RFC 3168), which a router
/// on the way may set where the sender says that it heeds them, as we do not: they stay 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tos(pub u8);

/// DSCP of expedited forwarding, RFC 3246.
const EF: u8 = 46;

/// The bits that are ECN's.
const ECN: u8 = 0b11;

impl FromStr for Tos {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_lowercase();
        let hex = name.strip_prefix("0x");
        let class = name.strip_prefix("cs").and_then(|class| class.parse().ok());
        let tos = match class {
            // Class selectors, RFC 2474 §4.2.2.
            Some(class @ 0..=7_u8) => Some(class << 5),
            _ if name == "ef" => Some(EF << 2),
            _ => hex.map_or_else(|| name.parse().ok(), |hex| u8::from_str_radix(hex, 16).ok()),
        };
        match tos {
            Some(tos) if tos & ECN != 0 => Err(format!(
                "the lowest two bits are ECN's, not ours to set: 0x{:02x} is the same without them",
                tos & !ECN
            )),
            Some(tos) => Ok(Self(tos)),
            None => Err("must be cs0 to cs7, ef, or a multiple of 4 below 256 (0xc0)".to_owned()),
        }
    }
}

/// The addresses at which `/metrics` is served over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsListen {
    /// At none; the Unix socket has it all the same.
    Off,
    /// On this port of every address, IPv4 and IPv6.
    Everywhere(u16),
    /// At this address.
    At(SocketAddr),
    /// On a Unix socket of this absolute path, for users of the agent's group.
    Unix(PathBuf),
}

impl MetricsListen {
    /// Returns the addresses to try, of which the first of a family that the host has is listened on; none
    /// for nowhere.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Off | Self::Unix(_) => Vec::new(),
            Self::Everywhere(port) => vec![
                (Ipv6Addr::UNSPECIFIED, *port).into(),
                (Ipv4Addr::UNSPECIFIED, *port).into(),
            ],
            Self::At(address) => vec![*address],
        }
    }

    /// Returns the TCP port; 0 for none.
    pub const fn port(&self) -> u16 {
        match self {
            Self::Off | Self::Unix(_) => 0,
            Self::Everywhere(port) => *port,
            Self::At(address) => address.port(),
        }
    }
}

impl FromStr for MetricsListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(
                    "write the socket's absolute path: unix:/run/dz-agent/metrics.sock".to_owned(),
                ),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::At(address));
        }
        match text
            .rsplit_once(':')
            .map(|(host, port)| (host, port.parse()))
        {
            Some(("", Ok(port))) => Ok(Self::Everywhere(port)),
            Some(("localhost", Ok(port))) => Ok(Self::At((Ipv4Addr::LOCALHOST, port).into())),
            _ => Err(instead(text)),
        }
    }
}

/// Advises on an address that cannot be listened at.
fn instead(text: &str) -> String {
    const FORMS: &str =
        "write 127.0.0.1:44881, localhost:44881, :44881 for all addresses, unix:/a/path, or off";
    if let Ok(port) = text.parse::<u16>() {
        return format!("write localhost:{port}, or :{port} for all addresses");
    }
    if text == "localhost" || text.parse::<Ipv4Addr>().is_ok() {
        return format!("write {text}:44881: the port is missing");
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    if [text, host]
        .iter()
        .any(|text| text.parse::<Ipv6Addr>().is_ok())
    {
        return "write an IPv6 address in brackets: [::1]:44881".to_owned();
    }
    FORMS.to_owned()
}

impl fmt::Display for MetricsListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Everywhere(port) => write!(f, ":{port}"),
            Self::At(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
