//! Collects the peers of `connect` and `disconnect` from the command line and from `--file`. A batch
//! is read to its end before anything is done with it, so that one refusal names every fault.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;

use super::arguments::{ConnectOptions, DisconnectOptions};
use crate::command::{Named, Selector};
use crate::error::{ExitCode, Failure};
use crate::settings::PeerRequest;
use crate::settings::address::{parse_host, parse_interface};
use crate::settings::lines::{Asked, Line, all_lines, at, read, senseless, source};

/// The peers that one command is about, in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Batch {
    peers: Vec<Asked>,
}

impl Batch {
    /// Collects the peers of a `connect`. Arguments come first; the agent checks them.
    ///
    /// # Errors
    /// [`ExitCode::Usage`] with every line that cannot be read or makes no sense.
    pub(super) fn to_connect(options: &ConnectOptions) -> Result<Self, Failure> {
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

    /// Collects the peers of a `disconnect`. Of a line's options only its interface counts.
    ///
    /// # Errors
    /// [`ExitCode::Usage`] with every line that cannot be read.
    pub(super) fn to_disconnect(options: &DisconnectOptions, path: &Path) -> Result<Self, Failure> {
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

    /// Returns the requests that connect them.
    pub(super) fn requests(&self) -> Vec<&PeerRequest> {
        self.peers.iter().map(|asked| &asked.request).collect()
    }

    /// Selects their sessions, for a disconnect.
    pub(super) fn selector(&self) -> Selector {
        let named = |asked: &Asked| {
            Some(Named {
                interface: asked.request.interface.clone(),
                peer: asked.request.peer.parse().ok()?,
            })
        };
        Selector::Peers(self.peers.iter().filter_map(named).collect())
    }

    /// Puts before each of the agent's faults the lines that name its peer. The agent knows no lines:
    /// each of its faults about one peer starts with `peer ADDRESS:`.
    pub(super) fn locate(&self, faults: Vec<String>) -> Vec<String> {
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

/// Reads the peers of a text, each with its line, and the faults of the lines that cannot be read.
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

#[cfg(test)]
mod tests;
