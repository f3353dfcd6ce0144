//! Reads the file of `run --peers`.

use std::collections::HashSet;
use std::path::Path;

use ipnet::Ipv4Net;

use super::lines::{self, Asked, Line, all_lines, at, source};
use super::peer::PeerSpec;
use super::policy::Override;
use crate::error::{ExitCode, Failure};

/// The statements of the file of `run --peers`.
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
    /// Reads the file, which must be a regular one.
    ///
    /// # Errors
    /// [`ExitCode::Usage`] with every line that cannot be read or makes no sense.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        Self::parse(&lines::read_regular(path)?).map_err(|faults| {
            let text = format!("{}: {}", source(path), faults.join("; "));
            Failure::new(ExitCode::Usage, text)
        })
    }

    /// Reads the text of a file, or lists its faults.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Vec<String>> {
        let mut file = Self::default();
        let (mut peers, mut faults) = (Vec::new(), Vec::new());
        let mut overridden = HashSet::new();
        for (line, read) in all_lines(text) {
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
        faults.extend(lines::senseless(&peers));
        if !faults.is_empty() {
            return Err(faults);
        }
        let spec = |asked: Asked| Some((asked.line?, asked.request.spec().ok()?));
        file.peers = peers.into_iter().filter_map(spec).collect();
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::NamedTempFile;

    use super::*;

    fn file(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn a_mark_of_the_encoding_does_no_harm() {
        let text =
            "\u{feff}10.0.0.7 local 10.0.0.1\r\n\u{feff}# joined\r\n{\"peer\": \"10.0.0.8\"}\r\n";
        let read = PeersFile::read(file(text).path()).unwrap();
        assert_eq!(read.peers.len(), 2);
        let mut utf_16 = NamedTempFile::new().unwrap();
        let text: Vec<u8> = "\u{feff}10.0.0.7"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        utf_16.write_all(&text).unwrap();
        let refused = PeersFile::read(utf_16.path()).unwrap_err().to_string();
        assert!(refused.ends_with("save it as UTF-8"), "{refused}");
    }

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [fifo.as_path(), &link, folder.path(), Path::new("/dev/null")] {
            let refused = PeersFile::read(path).unwrap_err().to_string();
            assert!(refused.contains("is no regular file"), "{refused}");
        }
        let long = NamedTempFile::new().unwrap();
        long.as_file().set_len(1 << 40).unwrap();
        let refused = PeersFile::read(long.path()).unwrap_err().to_string();
        assert!(refused.contains("longer than"), "{refused}");
    }

    #[test]
    fn a_file_of_peers_also_excludes_and_overrides() {
        let text = "exclude 10.9.0.0/16 10.8.0.1 # not ours\noverride 10.0.0.0/8 detect-mult 5 passive\n\
                    10.0.0.7 local 10.0.0.1 active\n";
        let read = PeersFile::read(file(text).path()).unwrap();
        assert_eq!(read.excluded.len(), 2);
        assert_eq!(read.overrides[0].timing.detect_mult, Some(5));
        assert_eq!((read.peers[0].0, read.peers[0].1.passive), (3, Some(false)));
        let refused = |text| PeersFile::read(file(text).path()).unwrap_err().to_string();
        for (text, reason) in [
            ("exclude", "line 1: exclude lacks its value"),
            ("exclude 10.0.0.1/8", "line 1: 10.0.0.1/8: has bits behind"),
            (
                "override 10.0.0.1",
                "line 1: 10.0.0.1/32: nothing is overridden",
            ),
            (
                "override 10.0.0.1 passive\noverride 10.0.0.1 active",
                "line 2: override 10.0.0.1/32: given",
            ),
        ] {
            let said = refused(text);
            assert!(said.contains(reason), "{text}: {said}");
        }
    }
}
