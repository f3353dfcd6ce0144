//! Reads peers from lines of text, one peer per line: for `--file` and `--peers`.
//!
//! A line is a JSON object, that of the API, or words as `ip` has them: an address, then options by
//! name. Empty lines and `#` comments are skipped.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::SplitWhitespace;

use ipnet::Ipv4Net;

use super::peer::PeerRequest;
use super::policy::{self, Override, Timing, once};
use crate::error::{ExitCode, FailWith, Failure};

/// Longest batch, bytes. The agent's own limit, of the request, is the same.
const MAX_LEN: u64 = 8 << 20;
/// The words that may follow a peer's address, for the refusal of another one.
const WORDS: &str =
    "local, interface, via, tx-interval, rx-interval, detect-mult, min-ttl, passive or active";

/// A peer that somebody asks for, with the number of the line that names it. An argument has no line.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) line: Option<usize>,
    pub(crate) request: PeerRequest,
}

/// Puts the line's number before a fault.
pub(crate) fn at((line, fault): (usize, String)) -> String {
    format!("line {line}: {fault}")
}

/// Returns a file's name for people.
pub(crate) fn source(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

/// Reads a file to its end. The path "-" names standard input.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let limit = MAX_LEN + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text))
    };
    read.fail_with(ExitCode::Usage, || source(path))?;
    is_text(path, &text)?;
    Ok(text)
}

/// Reads a file that no writer can keep us waiting for: a regular one. A FIFO, a device, a directory is refused.
pub(crate) fn read_regular(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let mut read = || -> io::Result<bool> {
        // Asked before it is opened, for to open a device may do something; and after, for it may be another by then.
        if !path.metadata()?.is_file() {
            return Ok(false);
        }
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Ok(false);
        }
        file.take(MAX_LEN + 1).read_to_end(&mut text)?;
        Ok(true)
    };
    if !read().fail_with(ExitCode::Usage, || path.display().to_string())? {
        let text = format!(
            "{}: is no regular file (a FIFO, a device, a directory): write the peers into one",
            path.display()
        );
        return Err(Failure::new(ExitCode::Usage, text));
    }
    is_text(path, &text)?;
    Ok(text)
}

/// Refuses what is too long, and UTF-16, in which every line would be a fault.
fn is_text(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let fault = if text.len() as u64 > MAX_LEN {
        format!("longer than {MAX_LEN} bytes")
    } else if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        "is UTF-16 text: save it as UTF-8".to_owned()
    } else {
        return Ok(());
    };
    let text = format!("{}: {fault}", source(path));
    Err(Failure::new(ExitCode::Usage, text))
}

/// Lists the faults that the agent would find whatever its state, and the lines that repeat an earlier
/// one.
pub(crate) fn senseless(lines: &[Asked]) -> Vec<String> {
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

/// The statement of one line.
pub(crate) enum Line {
    /// Keep a session with this peer.
    Peer(Box<PeerRequest>),
    /// These destinations never have a session.
    Exclude(Vec<Ipv4Net>),
    /// These destinations have other timers.
    Override(Override),
}

/// Reads the lines of a text, and numbers them from 1. A line that is empty or a comment states nothing.
pub(crate) fn all_lines(
    text: &[u8],
) -> impl Iterator<Item = (usize, Result<Option<Line>, String>)> {
    let lines = text.split(|byte| *byte == b'\n');
    (1..).zip(lines.map(|line| {
        let text = str::from_utf8(line).map_err(|_| "is not UTF-8 text".to_owned());
        text.and_then(read_line)
    }))
}

fn read_line(line: &str) -> Result<Option<Line>, String> {
    // Some editors begin a file with a mark for its encoding (U+FEFF), also in the middle of joined files.
    let line = line.trim_start_matches('\u{feff}').trim();
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

/// Reads the words of a line that names a peer.
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
