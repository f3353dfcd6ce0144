//! Peers as lines of text, one peer per line: what `--file` reads.
//!
//! A line is a JSON object, that of the API, or words as `ip` has them: an address, then options by
//! name. Empty lines and `#` comments are skipped. A batch is read to its end before anything is
//! done with it, so that one refusal names every fault.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::SplitWhitespace;

use ipnet::Ipv4Net;

use crate::address::{parse_host, parse_interface};
use crate::api::PeerRequest;
use crate::cli::{ConnectOptions, DisconnectOptions};
use crate::command::{Named, PeerSpec, Selector};
use crate::error::{ExitCode, FailWith, Failure};
use crate::policy::{self, Override, Timing, once};

/// Longest batch, bytes. The agent's own limit, of the request, is the same.
const MAX_LEN: u64 = 8 << 20;
/// What can follow a peer's address.
const WORDS: &str =
    "local, interface, via, tx-interval, rx-interval, detect-mult, min-ttl, passive or active";

/// Peers as they were asked for.
#[derive(Debug)]
pub struct Batch {
    peers: Vec<Asked>,
}

/// A peer, and the line that names it; none if it is an argument.
#[derive(Debug)]
struct Asked {
    line: Option<usize>,
    request: PeerRequest,
}

impl Batch {
    /// The peers of a `connect`. Arguments come first; they are checked by the agent.
    ///
    /// # Errors
    /// [`ExitCode::Usage`] with every line that cannot be read or makes no sense.
    pub fn to_connect(options: &ConnectOptions) -> Result<Self, Failure> {
        let defaults = options.defaults();
        let arguments = options.peers.iter().map(|peer| Asked {
            line: None,
            request: PeerRequest {
                peer: peer.to_string(),
                ..defaults.clone()
            },
        });
        let mut peers: Vec<_> = arguments.collect();
        let mut faults = Vec::new();
        if let Some(path) = &options.file {
            let (lines, unreadable) = lines(&read(path)?);
            faults.extend(unreadable);
            let complete = |(line, request): (usize, PeerRequest)| Asked {
                line: Some(line),
                request: request.or(&defaults),
            };
            let lines: Vec<_> = lines.into_iter().map(complete).collect();
            faults.extend(senseless(&lines));
            peers.extend(lines);
        }
        Self::of(peers, faults, options.file.as_deref())
    }

    /// The peers of a `disconnect`; options of a line other than its interface mean nothing there.
    ///
    /// # Errors
    /// [`ExitCode::Usage`] with every line that cannot be read.
    pub fn to_disconnect(options: &DisconnectOptions, path: &Path) -> Result<Self, Failure> {
        let request = |peer: &Ipv4Addr| PeerRequest {
            peer: peer.to_string(),
            interface: options.interface.clone(),
            ..PeerRequest::default()
        };
        let arguments = options.peers.iter().map(|peer| Asked {
            line: None,
            request: request(peer),
        });
        let mut peers: Vec<_> = arguments.collect();
        let (lines, mut faults) = lines(&read(path)?);
        let defaults = PeerRequest {
            interface: options.interface.clone(),
            ..PeerRequest::default()
        };
        for (line, request) in lines {
            let request = request.or(&defaults);
            let interface = request.interface.as_deref();
            faults.extend(
                [
                    parse_host(&request.peer)
                        .err()
                        .map(|fault| format!("peer {fault}")),
                    interface.and_then(|name| parse_interface(name).err()),
                ]
                .into_iter()
                .flatten()
                .map(|fault| (line, fault))
                .map(at),
            );
            peers.push(Asked {
                line: Some(line),
                request,
            });
        }
        Self::of(peers, faults, Some(path))
    }

    fn of(peers: Vec<Asked>, faults: Vec<String>, path: Option<&Path>) -> Result<Self, Failure> {
        let name = path.map_or_else(|| "peers".to_owned(), source);
        if !faults.is_empty() {
            let text = format!("{name}: {}", faults.join("; "));
            return Err(Failure::new(ExitCode::Usage, text));
        }
        if peers.is_empty() {
            return Err(Failure::new(
                ExitCode::Usage,
                format!("{name}: no peer in it"),
            ));
        }
        Ok(Self { peers })
    }

    /// What is sent to connect them.
    pub fn requests(&self) -> Vec<&PeerRequest> {
        self.peers.iter().map(|asked| &asked.request).collect()
    }

    /// Which sessions a disconnect of them is about.
    pub fn selector(&self) -> Selector {
        let named = |asked: &Asked| {
            Some(Named {
                interface: asked.request.interface.clone(),
                peer: asked.request.peer.parse().ok()?,
            })
        };
        Selector::Peers(self.peers.iter().filter_map(named).collect())
    }

    /// The agent's faults, each with the lines that name its peer. The agent knows no lines: every
    /// fault of its about one peer starts with `peer ADDRESS:`.
    pub fn locate(&self, faults: Vec<String>) -> Vec<String> {
        let mut lines: HashMap<&str, Vec<String>> = HashMap::new();
        for asked in &self.peers {
            let line = asked.line.map(|line| line.to_string());
            lines.entry(&asked.request.peer).or_default().extend(line);
        }
        let locate = |fault: String| {
            let peer = fault
                .strip_prefix("peer ")
                .and_then(|rest| rest.split(':').next());
            match peer.and_then(|peer| lines.get(peer)).map(Vec::as_slice) {
                None | Some([]) => fault,
                Some([line]) => format!("line {line}: {fault}"),
                Some(several) => format!("lines {}: {fault}", several.join(" and ")),
            }
        };
        faults.into_iter().map(locate).collect()
    }
}

/// What the file of `run --peers` says.
#[derive(Debug, Default)]
pub struct PeersFile {
    /// The peers, each with its line. There may be none.
    pub peers: Vec<(usize, PeerSpec)>,
    /// Destinations that never have a session.
    pub excluded: Vec<Ipv4Net>,
    /// Timers of some peers.
    pub overrides: Vec<Override>,
}

impl PeersFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ExitCode::Usage`] with every line that cannot be read or makes no sense.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let mut file = Self::default();
        let (mut peers, mut faults) = (Vec::new(), Vec::new());
        let mut overridden = HashSet::new();
        for (line, read) in all_lines(&read(path)?) {
            match read {
                Ok(None) => {}
                Ok(Some(Line::Peer(request))) => peers.push(Asked {
                    line: Some(line),
                    request: *request,
                }),
                Ok(Some(Line::Exclude(prefixes))) => file.excluded.extend(prefixes),
                Ok(Some(Line::Override(rule))) => {
                    if !overridden.insert(rule.prefix) {
                        faults.push(at((line, format!("override {}: given twice", rule.prefix))));
                    }
                    file.overrides.push(rule);
                }
                Err(fault) => faults.push(at((line, fault))),
            }
        }
        faults.extend(senseless(&peers));
        if !faults.is_empty() {
            let text = format!("{}: {}", source(path), faults.join("; "));
            return Err(Failure::new(ExitCode::Usage, text));
        }
        let spec = |asked: Asked| Some((asked.line?, asked.request.spec().ok()?));
        file.peers = peers.into_iter().filter_map(spec).collect();
        Ok(file)
    }
}

fn at((line, fault): (usize, String)) -> String {
    format!("line {line}: {fault}")
}

fn source(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let limit = MAX_LEN + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text))
    };
    read.fail_with(ExitCode::Usage, || source(path))?;
    if text.len() as u64 > MAX_LEN {
        let text = format!("{}: longer than {MAX_LEN} bytes", source(path));
        return Err(Failure::new(ExitCode::Usage, text));
    }
    Ok(text)
}

/// What makes no sense whatever the agent's state, and lines that repeat each other.
fn senseless(lines: &[Asked]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = BTreeMap::new();
    for asked in lines {
        let line = asked.line.unwrap_or(0);
        let spec = match asked.request.spec() {
            Ok(spec) => spec,
            Err(found) => {
                faults.extend(found.into_iter().map(|fault| at((line, fault))));
                continue;
            }
        };
        if let Some(earlier) = seen.insert((spec.interface, spec.local, spec.peer), line) {
            let fault = format!("peer {}: named in line {earlier} already", spec.peer);
            faults.push(at((line, fault)));
        }
    }
    faults
}

/// What a line says.
enum Line {
    Peer(Box<PeerRequest>),
    Exclude(Vec<Ipv4Net>),
    Override(Override),
}

/// The peers of a text by line, and the faults of the lines that cannot be read.
fn lines(text: &[u8]) -> (Vec<(usize, PeerRequest)>, Vec<String>) {
    let (mut peers, mut faults) = (Vec::new(), Vec::new());
    for (number, line) in all_lines(text) {
        match line {
            Ok(None) => {}
            Ok(Some(Line::Peer(request))) => peers.push((number, *request)),
            Ok(Some(Line::Exclude(_) | Line::Override(_))) => {
                let fault = "exclude and override are for the file of `run --peers`";
                faults.push(at((number, fault.to_owned())));
            }
            Err(fault) => faults.push(at((number, fault))),
        }
    }
    (peers, faults)
}

fn all_lines(text: &[u8]) -> impl Iterator<Item = (usize, Result<Option<Line>, String>)> {
    let lines = text.split(|byte| *byte == b'\n');
    (1..).zip(lines.map(|line| {
        let text = str::from_utf8(line).map_err(|_| "is not UTF-8 text".to_owned());
        text.and_then(read_line)
    }))
}

fn read_line(line: &str) -> Result<Option<Line>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.starts_with('{') {
        let json = serde_json::from_str(line);
        // serde counts lines, too: in its own text there is only one.
        return json.map(Line::Peer).map(Some).map_err(|error| {
            error
                .to_string()
                .replacen("at line 1 column", "at column", 1)
        });
    }
    let said = line
        .split_whitespace()
        .take_while(|word| !word.starts_with('#'));
    let mut words = said.clone();
    match words.next() {
        Some("exclude") => {
            let prefixes: Vec<_> = words.map(policy::prefix).collect::<Result<_, _>>()?;
            if prefixes.is_empty() {
                return Err("exclude lacks its value".to_owned());
            }
            Ok(Some(Line::Exclude(prefixes)))
        }
        Some("override") => {
            let rule = words.collect::<Vec<_>>().join(" ").parse()?;
            Ok(Some(Line::Override(rule)))
        }
        _ => Ok(Some(Line::Peer(Box::new(peer(line.split_whitespace())?)))),
    }
}

/// The peer of a line.
fn peer(mut words: SplitWhitespace<'_>) -> Result<PeerRequest, String> {
    let mut request = PeerRequest {
        peer: words.next().unwrap_or_default().to_owned(),
        ..PeerRequest::default()
    };
    let mut timing = Timing::default();
    while let Some(word) = words.next() {
        match word {
            comment if comment.starts_with('#') => break,
            "local" => once(&mut request.local, word, value(&mut words, word)?)?,
            "interface" => once(&mut request.interface, word, value(&mut words, word)?)?,
            "via" => once(&mut request.via, word, value(&mut words, word)?)?,
            _ if timing.word(word, || value(&mut words, word))? => {}
            _ => return Err(format!("{word:?} is not {WORDS}")),
        }
    }
    request.tx_interval_us = timing.tx_interval_us;
    request.rx_interval_us = timing.rx_interval_us;
    request.detect_mult = timing.detect_mult;
    request.min_ttl = timing.min_ttl;
    request.passive = timing.passive;
    Ok(request)
}

fn value(words: &mut SplitWhitespace<'_>, name: &str) -> Result<String, String> {
    let word = words.next().filter(|word| !word.starts_with('#'));
    word.map(str::to_owned)
        .ok_or_else(|| format!("{name} lacks its value"))
}

#[cfg(test)]
mod tests;
